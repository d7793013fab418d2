"""The model registry in MLflow: versions that load and predict, and a champion that has earned its alias.

A version is a packaged model (:mod:`odin_slm.inference.packaged_model`) with the project's code and pinned
requirements, so that ``mlflow.pyfunc.load_model("models:/NAME@champion")`` works on a machine without this project.
Two aliases move: ``challenger`` marks the newest version that is not the champion, ``champion`` the one to use.
Everything that ever happened to ``champion`` is kept as tags of the registered model, one per event, in order.

Who becomes champion is decided and written under a lock, so that of several promotions each meets the champion that
the one before it left. The lock is a file beside a SQLite store; for a tracking server it holds for the processes of
one machine.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from odin_slm.core import json_text
from odin_slm.core.errors import RegistryError
from odin_slm.core.hashing import canonical_json, canonical_jsonl, sha256_of_files, sha256_of_json, sha256_text
from odin_slm.inference.reading import DEFAULTS
from odin_slm.inference.served_model import CALIBRATOR, SETTINGS, resolve_model
from odin_slm.models.base_model import BaseModel, commit_of, is_whole
from odin_slm.release.checks import ALLOWED
from odin_slm.tasks import Task
from odin_slm.tracking.promotion import Champion, conclude, judge, rescored, rows_digest

CHAMPION, CHALLENGER = "champion", "challenger"
PREDICTIONS = "predictions/predictions.jsonl"
"""Where the run of a version keeps the predictions that later models are compared with."""

CHAMPION_PREDICTIONS = "predictions/champion_predictions.jsonl"
"""Where it keeps what a champion of other data has said to the same texts."""

_REQUIREMENTS = (
    "llguidance",
    "mlflow",
    "numpy",
    "pandas",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
_MODEL = "model"
_EVENT = "champion.{:06d}"
_LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class Candidate:
    """A model on its way into the registry.

    Attributes:
        folder: Adapter and tokenizer, with whatever belongs to them, as a staged release holds them.
        base: The base.
        base_id: What the base is called.
        instructions: Schema name -> instruction that the model was trained with.
        predictions: Rows of its predictions file; empty where there are none, and then it cannot become champion.
        metrics: Name -> value, as its run has them.
        experiment: Name of its experiment.
        manifest_sha256: Hash of the manifest of its data.
        task: What it was taught.
        calibrator: What makes chances to be right of its probabilities; None where there is none.
    """

    folder: Path
    base: BaseModel
    base_id: str
    instructions: Mapping[str, str]
    predictions: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]
    experiment: str
    manifest_sha256: str | None
    task: Task
    calibrator: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Promotion:
    """What was decided about a version, with all that it takes to decide anew if another model is champion by then.

    Attributes:
        version: Number of the version.
        decision: See :func:`odin_slm.tracking.promotion.judge` and :func:`odin_slm.tracking.promotion.conclude`.
        task: What scores.
        test: ``significance``, ``resamples`` and ``seed`` of the paired test.
        champion_predictions: What the champion says to the texts of the version's predictions; they count for that
            champion where its own predictions are of other data.
    """

    version: str
    decision: Mapping[str, Any]
    task: Task
    test: Mapping[str, Any]
    champion_predictions: Sequence[Mapping[str, Any]] = ()


class Registry:
    """The versions of one registered model in the tracking store that MLflow is set to.

    Args:
        name: Name of the registered model.
    """

    def __init__(self, name: str) -> None:
        from mlflow import MlflowClient

        self.name = name
        self._client = MlflowClient()

    def champion(self) -> Any | None:
        """Return the version that holds the alias, or None."""
        return self._by_alias(CHAMPION)

    def version(self, number: str) -> Any:
        """Return a version.

        Raises:
            RegistryError: There is none of this number.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(self.name, number)
        except MlflowException:
            known = ", ".join(str(v.version) for v in reversed(self.versions())) or "none"
            raise RegistryError(
                f"there is no version {number}.", where=self.name, fix=f"The versions are: {known}."
            ) from None

    def versions(self) -> list[Any]:
        """Return all versions, the newest first."""
        found = self._client.search_model_versions(f"name = '{self.name}'")
        return sorted(found, key=lambda version: -int(version.version))

    def as_champion(self) -> Champion | None:
        """Return the champion with its predictions, for a comparison; None where there has never been one."""
        version = self.champion()
        if version is None:
            events = self.history()
            return Champion([], vacant=_vacant(events[-1])) if events else None
        number, manifest = str(version.version), version.tags.get("data_manifest_sha256")
        address = f"models:/{self.name}/{number}"
        champion = Champion([], number, manifest, model=lambda: resolve_model(address, root=Path.cwd()))
        try:
            return replace(champion, rows=self.predictions(number))
        except RegistryError as error:
            return replace(champion, problem=error.what)

    def history(self) -> list[dict[str, Any]]:
        """Return what happened to the alias, the oldest first.

        Returns:
            ``action`` (promote, demote, rollback), ``version`` and ``previous`` (None: no champion), ``forced``,
            ``reason``, ``by``, ``run_id``, ``at`` (UTC); after a test ``test``: ``manifest_sha256`` of the data,
            whether the champion was ``rescored`` on them, and by metric the figures of both, the champion's last.
        """
        from mlflow.exceptions import MlflowException

        try:
            tags = self._client.get_registered_model(self.name).tags
        except MlflowException:
            return []
        return [json.loads(tags[key]) for key in sorted(tags) if key.startswith("champion.")]

    def register(self, candidate: Candidate, run_id: str, *, challenger: bool = True) -> str:
        """Make a version of a candidate; the same model with the same predictions and data is registered once.

        Args:
            candidate: The model.
            run_id: The run that the version belongs to; it gets the model and the predictions.
            challenger: Whether a new version becomes the challenger.

        Returns:
            Number of the version.
        """
        tags = self._tags(candidate)
        with self._locked():
            self._make(candidate.task)
            if known := self._known(tags):
                return known
        if candidate.predictions:
            self._client.log_text(run_id, canonical_jsonl([dict(row) for row in candidate.predictions]), PREDICTIONS)
        self._log(candidate, run_id)
        with self._locked():
            if known := self._known(tags):  # another run has registered it while this one wrote its files
                return known
            made = self._client.create_model_version(
                self.name, f"runs:/{run_id}/{_MODEL}", run_id, tags=tags, await_creation_for=0
            )
            if challenger:
                self._client.set_registered_model_alias(self.name, CHALLENGER, made.version)
        return str(made.version)

    def _known(self, tags: Mapping[str, str]) -> str | None:
        """Return the version of the same model, predictions and data, if there is one; the lock is held."""
        for known in self.versions():
            if all(known.tags.get(key, "") == tags[key] for key in tags if key.endswith("_sha256")):
                return str(known.version)
        return None

    def promote(
        self,
        number: str,
        *,
        task: Task,
        test: Mapping[str, Any],
        force: bool = False,
        reason: str = "",
        run_id: str | None = None,
        champion_predictions: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """Make a version champion if it is better than the one in use, or if somebody takes the responsibility.

        The first model becomes champion without a test. Where a champion was demoted, its place is free for a reason:
        nothing but force, or a rollback, fills it.

        Args:
            number: The version.
            task: What scores.
            test: ``significance``, ``resamples`` and ``seed`` of the paired test.
            force: Promote whatever the test says.
            reason: Why; needed with ``force``.
            run_id: The run that asks, for the history.
            champion_predictions: See :class:`Promotion`.

        Returns:
            The decision, see :func:`odin_slm.tracking.promotion.judge`, with ``forced``.

        Raises:
            RegistryError: There is no such version, or ``force`` comes without a reason.
        """
        if force and not reason.strip():
            raise RegistryError(
                "a forced promotion needs a reason, and the history keeps it.",
                where="promotion.reason",
                fix="Say why, as in --params promotion.force=true,promotion.reason=WHY.",
            )
        undecided = conclude({"why": reason}, force=force, reason=reason)
        return self.apply(Promotion(number, undecided, task, test, champion_predictions), run_id)

    def apply(self, promotion: Promotion, run_id: str | None = None) -> dict[str, Any]:
        """Note what was decided about a version, and give it the alias if it was promoted.

        The lock is held from the look at the champion to the alias. If the champion is another one by now, or the
        decision was about other predictions, it is made anew by the same rules.

        Returns:
            The decision that counts.

        Raises:
            RegistryError: There is no such version.
        """
        number, decision = promotion.version, promotion.decision
        with self._locked():
            version, champion = self.version(number), self.champion()
            if champion and str(champion.version) == number:
                return {"decision": "keep", "why": "it is the champion already", "forced": False, "metrics": None}
            if not self._holds(decision, version, champion):
                judged = self._judged(version, promotion)
                decision = conclude(judged, force=decision["forced"], reason=decision["why"])
            met = _met(decision, version.tags.get("data_manifest_sha256"))
            self._note(number, decision, met)
            if decision.get("rescored"):
                kept = canonical_jsonl([dict(row) for row in promotion.champion_predictions])
                self._client.log_text(version.run_id, kept, CHAMPION_PREDICTIONS)
            if decision["decision"] == "promote":
                forced = decision["forced"]
                self._move("promote", number, reason=decision["why"], forced=forced, run_id=run_id, test=met)
            return dict(decision)

    def _holds(self, decision: Mapping[str, Any], version: Any, champion: Any | None) -> bool:
        """Tell whether a decision is about this version's predictions and the present champion; the lock is held."""
        if "champion" not in decision or (champion is None and self.history()):
            return False
        if decision["champion"] is None and decision["metrics"]:  # a file that stood for the champion
            return False
        met = str(champion.version) if champion else None
        return decision["champion"] == met and decision["predictions_sha256"] == version.tags.get("predictions_sha256")

    def demote(self, reason: str = "") -> str:
        """Take the alias from the champion; nobody has it then.

        Returns:
            The version that had it.

        Raises:
            RegistryError: There is no champion.
        """
        with self._locked():
            version = self.champion()
            if version is None:
                raise RegistryError("there is no champion.", where=self.name, fix="See kedro champion history.")
            self._move("demote", None, reason=reason)
            return str(version.version)

    def rollback(self, reason: str = "") -> str:
        """Give the alias back to the champion before the present one, or before the one that was demoted.

        Returns:
            The version that has it now.

        Raises:
            RegistryError: There was none before, or it was deleted.
        """
        with self._locked():
            line = _line(self.history())
            champion = self.champion()
            # An alias that was set elsewhere, or by a run that died before it could note it, is above the whole line.
            below = line[:-1] if champion and line and line[-1] == str(champion.version) else line
            if not below:
                raise RegistryError(
                    "there was no champion before.", where=self.name, fix="Name a version: kedro champion promote N."
                )
            self.version(below[-1])
            self._move("rollback", below[-1], reason=reason)
            return below[-1]

    def predictions(self, number: str) -> list[dict[str, Any]]:
        """Return the rows of a version's predictions file.

        Raises:
            RegistryError: There is no such version, it has none of its own, or they cannot be read.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        version = self.version(number)
        digest = version.tags.get("predictions_sha256")
        problem = "cannot be read from its run"
        try:
            text = mlflow.artifacts.load_text(f"runs:/{version.run_id}/{PREDICTIONS}")
            rows = [json_text.loads(line) for line in text.split("\n") if line]
            if digest is None or digest == rows_digest(rows):
                return rows
            problem = "are not those that it was registered with"
        except (MlflowException, OSError, ValueError):
            pass
        raise RegistryError(
            f"version {number} has no predictions."
            if digest == rows_digest([])
            else f"the predictions of version {number} {problem}.",
            where=f"{self.name} version {number}",
            fix="Register it again from the folder where it was made, or force the promotion with a reason.",
        )

    def _judged(self, version: Any, promotion: Promotion) -> dict[str, Any]:
        manifest = version.tags.get("data_manifest_sha256")
        try:
            rows = self.predictions(str(version.version))
        except RegistryError as error:
            return {"decision": "keep", "why": error.what.removesuffix("."), "metrics": None}
        current = rescored(self.as_champion(), promotion.champion_predictions, rows, manifest)
        return judge(rows, current, promotion.task, manifest_sha256=manifest, **promotion.test)

    def _note(self, number: str, decision: Mapping[str, Any], met: Mapping[str, Any] | None) -> None:
        """Tag a version with what was decided about it, and on which figures."""
        tags = {f"promotion_{key}": decision[key] for key in ("decision", "why")}
        if met:
            tags |= {"promotion_champion": decision["champion"], "promotion_rescored": str(met["rescored"]).lower()}
            for name in decision["figures"]:
                own, champions = met[name]
                tags |= {f"promotion_{name}": f"{own:.4f}", f"promotion_champion_{name}": f"{champions:.4f}"}
            tags["promotion_manifest_sha256"] = met["manifest_sha256"] or ""
        earlier = {key for key in self.version(number).tags if key.startswith("promotion_")}
        for key in sorted(earlier - tags.keys()):  # figures of a decision that no longer counts
            self._client.delete_model_version_tag(self.name, number, key)
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, number, key, value)

    def _move(
        self,
        action: str,
        number: str | None,
        *,
        reason: str,
        forced: bool = False,
        run_id: str | None = None,
        test: Mapping[str, Any] | None = None,
    ) -> None:
        """Set the alias and note it; the lock is held."""
        previous, by = self.champion(), _user()
        if number is None:
            self._client.delete_registered_model_alias(self.name, CHAMPION)
        else:
            self._client.set_registered_model_alias(self.name, CHAMPION, number)
            challenger = self._by_alias(CHALLENGER)
            if challenger and str(challenger.version) == number:
                self._client.delete_registered_model_alias(self.name, CHALLENGER)
        event: dict[str, Any] = {
            "action": action,
            "version": number,
            "previous": str(previous.version) if previous else None,
            "forced": forced,
            "reason": reason,
            "by": by,
            "run_id": run_id,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if test:
            event["test"] = test
        key = _EVENT.format(len(self.history()) + 1)
        self._client.set_registered_model_tag(self.name, key, json.dumps(event, ensure_ascii=False))

    def _by_alias(self, alias: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version_by_alias(self.name, alias)
        except MlflowException:  # no such model, or no such alias
            return None

    def _make(self, task: Task) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException:
            self._client.create_registered_model(
                self.name, description=f"{task.title.capitalize()}; load it by the alias `champion`."
            )

    def _tags(self, candidate: Candidate) -> dict[str, str]:
        base = candidate.base
        tags = {
            "experiment": candidate.experiment,
            "base_model": candidate.base_id,
            "base_revision": commit_of(base) or "",
            "model_sha256": _model_digest(candidate),
            "predictions_sha256": rows_digest(candidate.predictions),
            "data_manifest_sha256": candidate.manifest_sha256 or "",
            "calibrator_sha256": sha256_of_json(candidate.calibrator) if candidate.calibrator else "",
        }
        return tags | {name: f"{value:.4f}" for name, value in candidate.metrics.items()}

    def _log(self, candidate: Candidate, run_id: str) -> None:
        """Log the packaged model to the run.

        It is saved and then copied: MLflow's ``log_model`` would load it once for a trial, and note a path of this
        machine in it.
        """
        import mlflow
        from mlflow.models import Model

        with tempfile.TemporaryDirectory() as folder:
            packaged, saved = Path(folder) / "packaged", Path(folder) / "saved"
            settings = package(candidate, packaged)
            mlflow.pyfunc.save_model(
                str(saved),
                mlflow_model=Model(artifact_path=_MODEL, run_id=run_id),
                loader_module="odin_slm.inference.packaged_model",
                data_path=str(packaged),
                code_paths=[str(Path(__file__).parents[1])],
                signature=_signature(candidate.task),
                input_example=[candidate.task.example],
                pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in _REQUIREMENTS],
                metadata={**settings, "experiment": candidate.experiment},
            )
            self._client.log_artifacts(run_id, str(saved), _MODEL)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        import mlflow
        from filelock import FileLock, Timeout

        uri = mlflow.get_tracking_uri()
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///") + f".{self.name}.lock")
        else:
            path = Path(tempfile.gettempdir()) / f"odin-slm-{sha256_text(f'{uri} {self.name}')[:16]}.lock"
        try:
            with FileLock(path, timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise RegistryError(
                f"another process has held the registry for {_LOCK_SECONDS:.0f} seconds.",
                where=path.name,
                fix="End that process, then try again.",
            ) from None


def package(candidate: Candidate, folder: Path) -> dict[str, Any]:
    """Write a packaged model that :class:`odin_slm.inference.packaged_model.PackagedModel` loads; return its settings.

    A base from the Hub is named by id and commit; the weights of a local one travel along. A whole model needs no base.
    """
    folder.mkdir()
    for file in sorted(candidate.folder.rglob("*")):  # nothing else of a training's folder, pickles least of all
        name = file.relative_to(candidate.folder)
        if file.is_file() and any(fnmatchcase(name.as_posix(), pattern) for pattern in ALLOWED["model"]):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / name)
    whole = is_whole(folder)
    if not whole:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": candidate.base_id, "revision": commit_of(candidate.base)}
        (folder / "adapter_config.json").write_text(canonical_json(config), encoding="utf-8")
    if candidate.base.path and not whole and not (folder / "base").is_dir():
        shutil.copytree(candidate.base.path, folder / "base")
    included = (folder / "base").is_dir()
    settings = {
        "base": {"id": candidate.base_id, "revision": commit_of(candidate.base), "included": included},
        "instructions": dict(candidate.instructions),
        "schema": _widest(candidate.instructions),
        "task": candidate.task.to_dict(),
    }
    (folder / SETTINGS).write_text(canonical_json(settings), encoding="utf-8")
    if candidate.calibrator:
        (folder / CALIBRATOR).write_text(canonical_json(candidate.calibrator), encoding="utf-8")
    return settings


def _widest(instructions: Mapping[str, str]) -> str:
    """Return the schema that asks for most: its instruction names the most types."""
    return max(sorted(instructions), key=lambda name: instructions[name].count(","))


def _met(decision: Mapping[str, Any], manifest_sha256: str | None) -> dict[str, Any] | None:
    """Return what the history keeps of a test; None where there was none."""
    if not decision.get("metrics"):
        return None
    kept = {"manifest_sha256": manifest_sha256, "rescored": decision["rescored"]}
    return kept | {name: [round(value, 4) for value in both] for name, both in decision["figures"].items()}


def _signature(task: Task) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    text = DataType.string
    return ModelSignature(
        # Without a name, so that a plain list of texts is as good as a table with a column `text`. Without a type, as
        # MLflow refuses a whole table of texts that are all missing, or are numbers; the model names these rows.
        inputs=Schema([ColSpec(AnyType())]),
        outputs=Schema(
            [*task.table_columns(), ColSpec(DataType.boolean, "finished"), ColSpec(text, "error", required=False)]
        ),
        params=ParamSchema(
            [
                ParamSpec("schema", text, ""),
                ParamSpec("decoding", text, "constrained"),
                *(ParamSpec(name, DataType.long, value) for name, value in DEFAULTS.items()),
            ]
        ),
    )


def _model_digest(candidate: Candidate) -> str:
    """Hash what decides the model's answers: weights, configuration and tokenizer of adapter and base."""
    if is_whole(candidate.folder):
        names = ("model.safetensors", "config.json", "tokenizer.json")
        return sha256_of_files(candidate.folder / name for name in names)
    names = ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json")
    files = [file for name in names if (file := candidate.folder / name).is_file()]
    if candidate.base.path:
        files += sorted(f for f in candidate.base.path.iterdir() if f.suffix == ".safetensors")
    return sha256_of_files(files, f"{candidate.base_id} {commit_of(candidate.base)}")


def _user() -> str:
    """Return who moves the champion; a container may run as a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # which of them depends on the version of Python and the platform
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _vacant(event: Mapping[str, Any]) -> str:
    """Say why a place without a champion is not taken by the next model that comes."""
    reason = f" ({event['reason']})" if event["action"] == "demote" and event["reason"] else ""
    what = "the champion was demoted" if event["action"] == "demote" else "the champion's alias was taken away"
    return f"{what}{reason}: promote by hand, with --force and a reason, or roll back"


def _line(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the champions that stand behind one another, the present one last; demoted ones are gone."""
    line: list[str] = []
    for event in events:
        if event["action"] == "promote":
            line.append(event["version"])
        elif event["action"] == "demote":  # of one whose alias was set outside, nobody in the line
            line = line[:-1] if line and line[-1] == event["previous"] else line
        else:  # back to a version further down
            while line and line[-1] != event["version"]:
                line.pop()
    return line
