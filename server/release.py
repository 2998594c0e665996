"""Which release of Pointsman this is."""

from importlib import metadata

try:
    RELEASE = metadata.version("pointsman")
except metadata.PackageNotFoundError:
    # Run from a folder of sources that nobody installed.
    RELEASE = ""
