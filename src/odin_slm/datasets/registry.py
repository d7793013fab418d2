"""The model registry as datasets: what publishing registers, and the champion that evaluation compares with."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from kedro.io import AbstractDataset

from odin_slm.core.errors import PredictionsError
from odin_slm.datasets import In, Out, ReadOnlyDataset
from odin_slm.datasets.json_files import JSONLinesDataset
from odin_slm.tracking.promotion import Champion
from odin_slm.tracking.registry import Candidate, Promotion, Registry

_LOGGER = logging.getLogger(__name__)


class _RegistryDataset(AbstractDataset[In, Out]):
    """A dataset that is a registered model.

    Args:
        name: Name of the registered model.
    """

    def __init__(self, *, name: str, metadata: dict[str, Any] | None = None) -> None:
        self._name = name
        self.metadata = metadata

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name}


class RegisteredModelDataset(_RegistryDataset[Candidate, dict[str, Any]]):
    """The versions of a registered model: a save makes one."""

    def load(self) -> dict[str, Any]:
        """Return the version of the active run, or else the newest.

        Returns:
            ``name``; ``version`` and ``champion``: their numbers, or None; ``why`` it is champion or not.
        """
        import mlflow

        registry = Registry(self._name)
        active, champion, versions = mlflow.active_run(), registry.champion(), registry.versions()
        number = _registered_by(active) if active else None
        own = [version for version in versions if str(version.version) == number]
        newest = next(iter([*own, *versions]), None)
        return {
            "name": self._name,
            "version": str(newest.version) if newest else None,
            "champion": str(champion.version) if champion else None,
            "why": newest.tags.get("promotion_why", "") if newest else "",
        }

    def save(self, data: Candidate) -> None:
        """Register a candidate."""
        import mlflow

        registry = Registry(self._name)
        with nullcontext() if mlflow.active_run() else mlflow.start_run(run_name=data.experiment):
            number = registry.register(data, mlflow.active_run().info.run_id)
            mlflow.set_tags({"model_version": number, "registered_model": self._name})

    def _exists(self) -> bool:
        return bool(Registry(self._name).versions())


class ChampionAliasDataset(_RegistryDataset[Promotion, "str | None"]):
    """The alias ``champion`` of a registered model; a save moves it where that was decided."""

    def load(self) -> str | None:
        """Return the version that holds the alias."""
        found = Registry(self._name).champion()
        return str(found.version) if found else None

    def save(self, data: Promotion) -> None:
        """Carry a decision out; where the champion it was about has been replaced, it is made anew."""
        import mlflow

        active = mlflow.active_run()
        decision = Registry(self._name).apply(data, active.info.run_id if active else None)
        _LOGGER.info("%s version %s: %s (%s).", self._name, data.version, decision["decision"], decision["why"])

    def _exists(self) -> bool:
        return Registry(self._name).champion() is not None


class ChampionDataset(_RegistryDataset[None, "Champion | None"], ReadOnlyDataset["Champion | None"]):
    """The model in use, with its predictions; None while there is none.

    Args:
        name: Name of the registered model.
        override: Holds ``path``: a predictions file that stands for the champion, or None.
    """

    REFUSAL = "the champion changes by promotion only."

    def __init__(self, *, name: str, override: dict[str, str | None], metadata: dict[str, Any] | None = None) -> None:
        super().__init__(name=name, metadata=metadata)
        self._path = override["path"]

    def load(self) -> Champion | None:
        """Return the champion.

        Raises:
            MissingInputError: There is no such file.
            PredictionsError: A line of it is not a JSON object, or there is none.
        """
        if self._path:
            rows = JSONLinesDataset(filepath=self._path).load()
            if not rows:  # no champion would lose to any model
                raise PredictionsError(
                    "the file holds no predictions.", where=self._path, fix="Name another with --params champion=FILE."
                )
            return Champion(rows)
        return Registry(self._name).as_champion()

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name, "path": self._path}


def _registered_by(active: Any) -> str | None:
    """Return the number of the version that a run has registered, or registered once more."""
    import mlflow

    number: str | None = mlflow.get_run(active.info.run_id).data.tags.get("model_version")
    return number
