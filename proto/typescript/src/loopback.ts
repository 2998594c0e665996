/** Whether an address is on this machine. */
import { BlockList, isIP } from "node:net";

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** Whether a URL's host is this machine, as far as its name tells. */
export function isLoopback(hostname: string): boolean {
  const host = hostname.replace(/^\[|\]$/g, "");
  const version = isIP(host);
  return host === "localhost" || (version > 0 && LOOPBACK.check(host, version === 6 ? "ipv6" : "ipv4"));
}
