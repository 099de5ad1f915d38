"""The ``wandb`` logger: records to Weights & Biases, online where it can be reached, else to files for later.

Nothing of the data ever goes there but the prompts of ``[samples]`` with their answers; nor does console output, source
code or the command line.
"""

from __future__ import annotations

import netrc
import os
import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from dpotrain import hookimpl
from dpotrain.plugin.api import Logger, PluginError, RecipeError, mask_values, require
from dpotrain_plugins.loggers.tracking import cells, closing_numbers, kept_id, named

if TYPE_CHECKING:
    from dpotrain.plugin.api import LoggedRun, Outcome, Record, TextRecord

dpotrain_interface = 2

#: Seconds that opening a run online may take before it is opened offline, and that the last upload may take: each
#: well below what ``logging.patience`` gives a logger.
INIT_TIMEOUT = 30.0
FINISH_TIMEOUT = 60.0

#: The public service's name in a netrc file; releases differ in the address that they use for it.
_NETRC_HOST = "api.wandb.ai"


class WandbLogger(Logger):
    """Logs to Weights & Biases without ever holding up the run."""

    name = "wandb"

    class Options(Logger.Options):
        project: str = Field("dpotrain", min_length=1, description="The project that the run appears in.")
        entity: str | None = Field(None, description="User or team that owns it; yours unless set.")
        name: str | None = Field(None, description="Name of the run; the run folder's name unless set.")
        group: str | None = Field(None, description="Group of runs that this one belongs to.")
        tags: tuple[str, ...] = Field((), description="Tags of the run.")
        notes: str | None = Field(None, description="A longer description of the run.")
        mode: Literal["auto", "online", "offline", "disabled"] = Field(
            "auto",
            description='"auto" logs online where there is a key and the server answers, else into the run '
            'folder, to be uploaded later; "online" insists on a key; "offline" stays off the network; '
            '"disabled" logs nothing.',
        )

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._run: Any = None

    def check(self) -> None:
        """Raise a RecipeError without the package, or for ``mode = "online"`` without a key."""
        if self.options.mode == "disabled":
            return
        require(self, "wandb")
        if self.options.mode == "online" and not _key_found():
            raise RecipeError(
                'the "wandb" logger has mode = "online", but there is no key for it\n'
                'run `wandb login`, set WANDB_API_KEY, or use mode = "auto"'
            )

    def start(self, run: LoggedRun) -> None:
        """Open the run, in the run folder's ``wandb`` folder; a resumed run goes on under the same id."""
        mode = self._mode()
        if mode == "disabled":
            return
        run_id = kept_id(run.folder / "wandb" / "run-id.txt", _new_id)
        if mode == "online":
            try:
                self._run = self._init(run, run_id, offline=False)
            except Exception as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                run.note(f"wandb could not be reached ({first})")
            else:
                run.note(f"wandb: {self._run.url}")
                return
        # After a failed attempt wandb holds the id until the process ends; the upload goes back under it.
        self._run = self._init(run, _new_id() if mode == "online" else run_id, offline=True)
        files = shlex.quote(str(Path(self._run.dir).parent))
        run.note(f"wandb logs offline; upload with: wandb sync --id {run_id} {files}")

    def log(self, record: Record) -> None:
        """Take one record; wandb drops a step that a resumed run repeats, and its values are the same."""
        if self._run is not None:
            self._run.log(named(record), step=record.step)

    def log_text(self, record: TextRecord) -> None:
        """Log the texts of a step as a table."""
        if self._run is None:
            return
        import wandb

        table = wandb.Table(columns=list(record.columns), data=cells(record))
        self._run.log({record.name: table}, step=record.step)

    def finish(self, outcome: Outcome) -> None:
        """Put the closing numbers into the summary and close the run as finished, preempted or failed."""
        if self._run is None:
            return
        run, self._run = self._run, None
        try:
            run.summary.update({"status": outcome.status, **closing_numbers(outcome)})
            if outcome.status == "stopped":
                run.mark_preempting()
        finally:
            run.finish(exit_code=0 if outcome.status == "finished" else 1)

    def _mode(self) -> str:
        """Return what ``auto`` comes to: what WANDB_MODE says, else online where there is a key."""
        if self.options.mode != "auto":
            return self.options.mode
        asked = os.environ.get("WANDB_MODE", "").lower()
        if asked == "disabled":
            return asked
        return "online" if asked not in {"offline", "dryrun"} and _key_found() else "offline"

    def _init(self, run: LoggedRun, run_id: str, *, offline: bool) -> Any:
        import wandb

        settings = {
            **{"console": "off", "silent": True, "save_code": False, "disable_code": True},
            "disable_git": True,  # it uploads uncommitted changes, data files among them
            "x_disable_meta": True,  # it uploads the command line, and with it whatever `--set` was given
            "init_timeout": INIT_TIMEOUT,
            "finish_timeout": FINISH_TIMEOUT,
        }
        known = wandb.Settings.model_fields  # the oldest release that dpotrain takes has no finish_timeout
        opened = wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            name=self.options.name or run.folder.name or None,
            group=self.options.group,
            tags=list(self.options.tags),
            notes=None if self.options.notes is None else mask_values(self.options.notes),
            id=run_id,
            resume=None if offline else "allow",
            reinit="create_new",  # a run that the surrounding program has open is its own
            dir=str(run.folder),
            mode="offline" if offline else "online",
            config={**run.config, "plugins": [dict(plugin) for plugin in run.plugins]},
            settings=wandb.Settings(**{name: value for name, value in settings.items() if name in known}),
        )
        if opened is None:
            raise PluginError("wandb.init opened no run")
        return opened


def _key_found() -> bool:
    """Say whether wandb would find a key without asking a person for one; no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    settings = wandb.setup().settings
    if settings.api_key:
        return True
    hosts = [urlsplit(settings.base_url).netloc]
    if settings.base_url == type(settings).model_fields["base_url"].default:
        hosts.append(_NETRC_HOST)
    try:
        entries = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    return any(entries.authenticators(host) for host in hosts)


def _new_id() -> str:
    return secrets.token_hex(4)


@hookimpl
def dpotrain_loggers() -> list[type[Logger]]:
    return [WandbLogger]
