"""Which names a bundle may be registered under, which URIs a name may stand for, and the name of a URI without one."""

from amplifier_app_api.bundles import BUILTIN_BUNDLES
from amplifier_app_api.bundles.uris import SourceUri
from amplifier_app_api.core.fields import InvalidFields, valid
from amplifier_app_api.errors import Conflict
from amplifier_app_api.models.bundle import FILE_ENDINGS, BundleRegisterRequest

MARKERS = ("bundle.md", "bundle.yaml")
ENDINGS = (".git", ".zip", *FILE_ENDINGS)


class BundleExists(Conflict):
    """The name is taken: by a bundle registered before, or by one that is built in."""

    code = "bundle_exists"
    title = "The bundle's name is taken"

    @classmethod
    def registered(cls, name: str) -> "BundleExists":
        """Registered before; that one can be replaced."""
        return cls(f"There is a bundle with the name {name!r}. Send ?replace=true to put this one in its place.")

    @classmethod
    def builtin(cls, name: str) -> "BundleExists":
        """Built in, and no tenant's to give to something else."""
        return cls(f"The bundle {name!r} is built in; register yours under another name.")


def checked_name(name: str) -> str:
    """A name that includes can say and that is not built in."""
    valid(BundleRegisterRequest, {"name": name})
    if name in BUILTIN_BUNDLES:
        raise BundleExists.builtin(name)
    return name


def checked_uri(text: str) -> str:
    """A URI that leads somewhere from anywhere: an absolute path, or an address without a password in it."""
    valid(BundleRegisterRequest, {"uri": text})
    uri = SourceUri.parse(text)
    if uri.is_relative_path:
        raise InvalidFields.of("uri", "must not be a relative path: a name has no folder that it could begin in")
    if uri.is_windows_path or not (uri.is_file or uri.is_remote):
        raise InvalidFields.of("uri", "must be an absolute path or an address: git+https://, zip+https://, https://")
    if "@" in uri.host:
        raise InvalidFields.of("uri", "must not hold a user or password: everybody who lists the names would see it")
    return text


def name_of(text: str) -> str:
    """The name that a URI suggests: the last part of its subdirectory or path, without a file's ending."""
    uri = SourceUri.parse(text)
    parts = [part for part in (uri.subpath or uri.path).split("/") if part]
    if len(parts) > 1 and parts[-1] in MARKERS:
        parts.pop()
    last = parts[-1] if parts else uri.host
    return next((last.removesuffix(ending) for ending in ENDINGS if last.endswith(ending)), last)
