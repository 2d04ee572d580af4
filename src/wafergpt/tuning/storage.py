"""Where the trials of a study are kept: a journal in its folder, or a database."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from wafergpt import atomic_files
from wafergpt.errors import InputError
from wafergpt.locks import Lock

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal._file import BaseJournalFileLock
    from optuna.trial import FrozenTrial, TrialState

Way = Literal["minimize", "maximize"]

JOURNAL = "study.journal"


def opened(folder: Path, name: str, storage: str, directions: Sequence[Way]) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        folder: of the study.
        name: of the study, unlike that of any other one in the database.
        storage: address of a database; the folder's journal if "".
        directions: of each objective.

    Raises:
        InputError: if Optuna is missing, the journal is damaged, or the database cannot be used.
    """
    try:
        import optuna
        from optuna.storages import BaseStorage, JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend
        from sqlalchemy.pool import NullPool
    except ImportError:
        raise InputError("tuning needs Optuna: pip install 'wafergpt[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / JOURNAL
    try:
        kept: BaseStorage
        if storage:
            # A trial takes long: a connection that is kept would be lost by its next use.
            kept = RDBStorage(storage, engine_kwargs={"poolclass": NullPool})
        else:
            kept = JournalStorage(JournalFileBackend(str(journal), _journal_lock(journal)))
        return optuna.create_study(
            storage=kept, study_name=name, directions=[*directions], load_if_exists=True
        )
    except ImportError as error:
        raise InputError(
            f"the database needs a driver ({error.name}): pip install 'wafergpt[cluster]'"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise InputError(f"{without_password(storage) or journal} is damaged: {reason}") from None
    except Exception as error:
        # Each driver has errors of its own.
        if not storage:
            raise
        line = str(error).strip().splitlines()[0]
        raise InputError(f"the database cannot be used: {line}") from None


def of_whole_trials(study: optuna.Study, keys: Collection[str]) -> optuna.Study:
    """Return a view of a study for its sampler, without settled trials that lack a setting.

    Args:
        study: as it is kept.
        keys: settings of a whole trial.

    Returns:
        The same study, which prunes nothing.
    """
    import optuna

    class WholeTrials(optuna.Study):
        def _get_trials(
            self,
            deepcopy: bool = True,
            states: Container[TrialState] | None = None,
            use_cache: bool = False,
        ) -> list[FrozenTrial]:
            return [
                trial
                for trial in super()._get_trials(deepcopy, states, use_cache)
                if not trial.state.is_finished() or set(keys) <= trial.params.keys()
            ]

    # Hyperband would show the sampler a view of its own, of all trials.
    pruner = optuna.pruners.NopPruner()
    return WholeTrials(study.study_name, study._storage, study.sampler, pruner)


def _journal_lock(journal: Path) -> BaseJournalFileLock:
    """Return a lock that the system releases when its process dies, as Optuna's own does not.

    Whoever gets it cuts the journal back to its last complete line: the rest of a record whose
    writer was killed would spoil the next one.
    """
    from optuna.storages.journal._file import BaseJournalFileLock

    lock = Lock(journal.with_name(f"{journal.name}.lock"))

    class JournalLock(BaseJournalFileLock):
        def acquire(self) -> bool:
            lock.acquire(wait=True)
            _cut_torn_record(journal)
            return True

        def release(self) -> None:
            lock.release()

    return JournalLock()


def _cut_torn_record(journal: Path) -> None:
    with journal.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size or _last_byte(file) == b"\n":
            return
    data = journal.read_bytes()
    atomic_files.write_bytes(journal, data[: data.rfind(b"\n") + 1])


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def without_password(address: str) -> str:
    """Return the address of a database as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1@", address)
