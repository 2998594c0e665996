"""Generates the stubs beside the protos, or checks that they are fresh, or lints the protos.

usage: python proto/generate.py [--check | --lint] [--typescript]

TypeScript's stubs need the plugin that `npm ci` in `proto/typescript` installs, at the version of its lock.

The tools are pinned, so that the same protos give the same bytes everywhere. Exit 0: done, fresh or clean; 1:
stale, and which files, or not clean; 3: a tool is absent or of another version.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TOOLS = {"grpcio-tools": "1.74.0", "mypy-protobuf": "5.1.0"}
STUBS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
TYPESCRIPT = ROOT / "typescript"
# What our protos import and what errors carry: npm has no package of them to import instead.
GOOGLE = ("google/rpc/status.proto", "google/rpc/error_details.proto")


def wrong_tools() -> list[str]:
    """What is missing of `TOOLS`, one line each."""
    wrong = []
    for name, wanted in TOOLS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "none"
        if found != wanted:
            wrong.append(f"needs {name}=={wanted}, found {found}")
    return wrong


def installed(package: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def compile_protos(*arguments: str) -> None:
    """Runs protoc on our protos. Raises CalledProcessError when one is wrong."""
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        # Ours first: an installed copy of the protos must not shadow the ones at hand.
        *(f"-I{ROOT}", f"-I{installed('grpc_tools') / '_proto'}", f"-I{installed('google.rpc').parents[1]}"),
        *arguments,
        *(path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("pointsman/**/*.proto"))),
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def generate(into: Path) -> None:
    """Writes Python's stubs below `into`. Raises CalledProcessError when a proto is wrong."""
    plugin = f"{sysconfig.get_path('scripts')}/protoc-gen-{{}}{sysconfig.get_config_var('EXE') or ''}"
    compile_protos(
        *(f"--plugin=protoc-gen-{name}={plugin.format(name)}" for name in ("mypy", "mypy_grpc")),
        *(f"--{kind}_out={into}" for kind in ("python", "grpc_python")),
        *(f"--{kind}_out=quiet:{into}" for kind in ("mypy", "mypy_grpc")),
    )


def typescript_plugin() -> Path:
    """Where npm puts the plugin that writes TypeScript."""
    return TYPESCRIPT / "node_modules" / ".bin" / "protoc-gen-es"


def generate_typescript(into: Path) -> None:
    """Writes TypeScript's stubs into `into`/typescript/src/gen. Raises CalledProcessError when a proto is wrong."""
    target = into / "typescript" / "src" / "gen"
    target.mkdir(parents=True, exist_ok=True)
    compile_protos(
        f"--plugin=protoc-gen-es={typescript_plugin()}",
        f"--es_out={target}",
        *("--es_opt=target=ts", "--es_opt=import_extension=js"),
        *GOOGLE,
    )


def stubs(folder: Path) -> dict[str, bytes]:
    """The generated files below `folder`: relative path to content."""
    found = (path for pattern in STUBS for path in folder.glob(f"pointsman/**/{pattern}"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def typescript_stubs(folder: Path) -> dict[str, bytes]:
    """TypeScript's generated files below `folder`: relative path to content."""
    found = folder.glob("typescript/src/gen/**/*.ts")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def stale(*, typescript: bool) -> list[str]:
    """The committed stubs that differ from what the protos give, missing and left-over ones included."""
    write, read = (generate_typescript, typescript_stubs) if typescript else (generate, stubs)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        fresh = read(Path(folder))
    committed = read(ROOT)
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def lint() -> int:
    """Runs `buf lint` in a workspace that holds the google/rpc protos too; returns its exit code."""
    npx = shutil.which("npx")
    if npx is None:
        print("needs npx, to run @bufbuild/buf", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copy(ROOT.parent / "buf.yaml", workspace)
        google = installed("google.rpc").parents[1]
        for source, pattern in ((ROOT, "pointsman/**/*.proto"), (google, "google/rpc/*.proto")):
            for path in source.glob(pattern):
                target = workspace / "proto" / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        buf = subprocess.run([npx, "--yes", "@bufbuild/buf", "lint"], cwd=workspace, check=False)
        return 1 if buf.returncode else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Generate, check or lint the protos.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with the committed stubs, write nothing")
    mode.add_argument("--lint", action="store_true", help="run buf lint")
    parser.add_argument("--typescript", action="store_true", help="TypeScript's stubs instead of Python's")
    arguments = parser.parse_args()
    if arguments.lint:
        return lint()
    wrong = wrong_tools()
    if arguments.typescript and not typescript_plugin().exists():
        wrong.append(f"needs {typescript_plugin()}: run npm ci in {TYPESCRIPT}")
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 3
    if arguments.check:
        names = stale(typescript=arguments.typescript)
        for name in names:
            print(f"stale: proto/{name}", file=sys.stderr)
        return 1 if names else 0
    if arguments.typescript:
        generate_typescript(ROOT)
    else:
        generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
