"""The command line. Errors become exit codes; heavy imports happen inside the commands."""

from __future__ import annotations

import logging
import signal
import sys

import click

from pipelines.commands import bento, look, loop, pure, retraining, serve, single, stack, tune
from pipelines.errors import PipelineError

HELP = """Keep models alive: validated batches, a paired gate, drift alarms that retrain.

\b
  ingest, validate     a batch lands and is held to its contract  data/1_raw, 2_valid
  prepare, train       a window becomes a model, as ONNX          data/3_prepared, 4_model
  evaluate             measured on its newest, unseen rows        data/5_report
  tune                 better settings, by cross-validation in time order
  gate, promote        challenger against champion, same rows     the MLflow registry
  score, labels        the champion answers; the truth arrives    data/6_live
  serve                the champion answers over HTTP             data/6_served
  monitor              has the world moved? alarm: retrain        data/6_live
  tick, replay         all of that, for one new batch, or many    data/7_replay

`dvc repro` runs ingest to evaluate on the window that params.yaml names. watch and retrain are a
tick in steps, as Airflow runs them; a retraining of theirs ends as a commit.

\b
Exit codes: 2 settings, 3 input missing, 4 source, 5 batch would change, 6 quarantined,
            7 model, 8 registry, 9 busy, 10 no such batch or id,
            11 service, 12 git or DVC.
Completion: eval "$(_PERENNIAL_COMPLETE=bash_source perennial)"   (or zsh_source, fish_source)
"""


class InFlowOrder(click.Group):
    """Lists commands as they were added, not by alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InFlowOrder, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quiet", "-q", is_flag=True, help="Say only what is wrong.")
@click.version_option(package_name="perennial")
def cli(quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipelines").setLevel(logging.WARNING if quiet else logging.INFO)


for command in (
    pure.ingest,
    pure.validate,
    pure.prepare,
    pure.train,
    pure.evaluate,
    tune.tune,
    retraining.watch,
    retraining.retrain,
    retraining.verdict,
    single.gate,
    single.promote,
    single.rollback,
    single.score,
    single.labels,
    single.monitor,
    serve.serve,
    bento.bento,
    retraining.smoke,
    loop.tick,
    loop.replay,
    loop.report,
    look.trace,
    look.status,
    look.contract,
    stack.stack,
):
    cli.add_command(command)


def main() -> None:
    """Exit codes as errors.py draws them; a traceback means a fault of ours."""
    # As an exception it runs what is in `finally`: an MLflow run is closed, a temporary file removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        # Without its standalone mode, click returns the status that a command asked to leave with.
        left_with = cli.main(standalone_mode=False)
        sys.exit(left_with if isinstance(left_with, int) else 0)
    except click.Abort:
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(130)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(wrong.exit_code)
    except PipelineError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
