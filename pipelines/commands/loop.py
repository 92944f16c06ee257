"""tick, replay, report: the loop as a whole."""

from __future__ import annotations

import click

from pipelines.commands.options import example, json_option, say, task_argument, wait_option

POLICIES = ("frozen", "always", "on-alarm")


@click.command(epilog=example("perennial tick flights --through 2013-06"))
@task_argument
@click.option("--batch", metavar="PERIOD", help="This batch; else the next one.")
@click.option("--through", metavar="PERIOD", help="Every batch not ticked yet, up to this one.")
@click.option(
    "--service", metavar="URL", help="Ask the running service for the answers, over HTTP."
)
@click.option("--serve", is_flag=True, help="The same, with a service that runs as long as this.")
@wait_option
@json_option
def tick(
    task: str,
    batch: str | None,
    through: str | None,
    service: str | None,
    serve: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Land a batch, watch the champion, retrain and judge when the policy says so, then answer it."""
    import contextlib

    from pipelines import loop
    from pipelines.adapters.service import Service
    from pipelines.commands.serve import running
    from pipelines.project import open_project
    from pipelines.service import access
    from pipelines.wire.schema import pictures_at_once

    p = open_project(task)

    def told(done: loop.Tick) -> None:
        if not as_json:
            said = f", {done.verdict}" if done.verdict else ""
            why = done.why if done.verdict else "; ".join(done.decision.reasons)
            click.echo(f"{done.period}  v{done.champion}  {done.decision.action}{said}: {why}")

    with contextlib.ExitStack() as stack:
        url = stack.enter_context(running(task)) if serve else service
        key = access.key_from_environment() if url else None
        most = min(p.task.serve.max_rows, pictures_at_once(p.contract))
        asked = Service(url, key, most, p.task.serve.max_mb * 1e6) if url else None
        if asked:
            asked.version()  # a training may come before the first question: better to hear it now
        if batch is None:
            done = loop.through(p, through, told, wait=wait, service=asked)
        else:
            done = [loop.tick(p, batch, wait=wait, service=asked)]
            told(done[0])
    due = "" if done else loop.waits_for(p) if through is None else "all done"
    nothing = "" if done else f"nothing is due for {task}: {due}"
    say([t.model_dump(mode="json") for t in done], as_json, nothing)


@click.command(epilog=example("perennial replay flights --policy frozen,always,on-alarm"))
@task_argument
@click.option(
    "--policy",
    default="frozen,always,on-alarm",
    show_default=True,
    help="One or more, with commas.",
)
@click.option("--through", metavar="PERIOD", help="Last batch; else the source's last.")
@json_option
def replay(task: str, policy: str, through: str | None, as_json: bool) -> None:
    """Run the loop over history under each policy: quality, trainings and seconds side by side."""
    from pipelines import replay as replays
    from pipelines.periods import goes_on
    from pipelines.project import open_project
    from pipelines.sources.base import open_source

    chosen = [word.strip() for word in policy.split(",")]
    wrong = [word for word in chosen if word not in POLICIES]
    if wrong:
        raise click.BadParameter(
            f"{', '.join(wrong)}; allowed are: {', '.join(POLICIES)}", param_hint="--policy"
        )
    p = open_project(task)
    offered = open_source(p.task, p.contract, p.at.root).periods()
    over = [period for period in offered if not goes_on(period, p.task.period)]
    last = through or (over or offered)[-1]
    told = replays.replay(p, chosen, last)  # type: ignore[arg-type]
    home = p.at.data / "7_replay" / task
    text = f"{replays.as_table(told)}\npicture: {home / 'replay.png'}\njson: {home / 'replay.json'}"
    say(told, as_json, text)


@click.command(epilog=example("perennial report flights"))
@task_argument
@json_option
def report(task: str, as_json: bool) -> None:
    """What the loop did, batch by batch, where its pages are, and what to type next."""
    from pipelines import report as reports
    from pipelines.errors import MissingInput
    from pipelines.loop import ticks
    from pipelines.project import open_project
    from pipelines.status import some_prediction
    from pipelines.trace import as_text, trace

    p = open_project(task)
    done = ticks(p)
    if not done:
        raise MissingInput(
            f"{task} has no tick yet, and the report is of ticks; what was decided without them "
            f"(by Airflow, by perennial watch) is told by: perennial status. "
            f"Make one with: perennial tick {task}"
        )
    lines = reports.lines(p, reports.first_model(p))
    path = p.at.live / "report.png"
    reports.picture(
        path,
        f"{task}: the loop against its first model, frozen",
        {"loop": [x.auc for x in lines], "frozen": [x.frozen_auc for x in lines]},
        lines,
        {"loop": [x.period for x in lines if x.action == "retrain"]},
        p.contract,
    )
    prediction = some_prediction(p, done[-1].period)
    traced = []
    if prediction:
        traced = ["One answer, traced back to its data:", as_text(trace(p, prediction)), ""]
    say(
        reports.summary(lines) | {"picture": str(path), "prediction": prediction},
        as_json,
        "\n".join(
            [
                reports.as_table(lines),
                "",
                f"pictures       {path}",
                f"validation     {p.at.validation_page(done[-1].period)}",
                f"data docs      {p.at.data_docs}",
                f"drift reports  {p.at.drift_page('x').parent}",
                "",
                *traced,
                "Next (after: . .venv/bin/activate):",
                "  perennial status                  the loop on one screen",
                f"  perennial trace {prediction or '<prediction id>'}",
                f"  perennial serve {task}            a page at http://127.0.0.1:3000",
                f"  perennial replay {task}           frozen, always and on-alarm side by side",
                "  dvc repro && dvc metrics show     a candidate on the window of params.yaml",
                f"  mlflow ui --backend-store-uri sqlite:///{p.at.mlflow / 'mlflow.db'}",
            ]
        ),
    )
