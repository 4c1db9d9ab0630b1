"""The Beam engine: Create | Reshuffle | ParDo, on any runner by its own options.

Each `map` is one pipeline. Its DoFn runs a shard in a child of the process that Beam calls it
in, so that neither a photo that kills nor a shard that keeps failing costs Beam a bundle.
No data passes through Beam: workers commit, and the commit records say what is done. On this
machine the DoFn tells the driver of each shard (`pipelines.runners.remote`). From a cluster
nothing comes back but metrics and the error that ended the job: the driver asks
`RecordedJob.committed` for commits, and a metric for shards that were given up.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from facepipe.errors import FacepipeError, UsageError
from pipelines.runners import Job, RecordedJob, ShardTask, WorkerDied
from pipelines.runners.bundle import CHILDREN, Outcome, Window
from pipelines.runners.process import check_job
from pipelines.runners.quarantine import cannot_open
from pipelines.runners.remote import Process, ProcessLost, Run, begin, driven, is_stopped, tell
from pipelines.runners.reports import OnDone, Round, report_of, sealed, unsealed


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep Beam's import from warning of absent Google clients, which sets up logging too."""
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(silent)


try:
    with _hushed():
        import apache_beam as beam
        from apache_beam.metrics.metric import Metrics, MetricsFilter
        from apache_beam.options import pipeline_options as options_of
        from apache_beam.runners.portability.fn_api_runner import worker_handlers
        from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
        from apache_beam.runners.portability.portable_runner import PortableRunner
        from apache_beam.runners.runner import PipelineState, create_runner
        from apache_beam.runners.worker import sdk_worker_main
        from apache_beam.transforms import environments
except ModuleNotFoundError as error:
    if error.name != "apache_beam":
        raise
    raise UsageError("the beam engine needs Apache Beam: pip install 'facepipe[beam]'") from error

_CAUSE_CHARS = 500  # of an error in a metric: Beam drops what goes over 1 MB in all
_PROCESS = "facepipe:environment:process:v1"


class BeamRunner:
    """A Beam pipeline for each map; use it as a context manager."""

    def __init__(self, workers: int = 1, retries: int = 2, options: Sequence[str] = ()) -> None:
        """Take Beam's own options. Raises UsageError where one has a value that is not allowed.

        Without a ``--runner`` among them the work stays on this machine: FnApiRunner in memory,
        which keeps ``workers`` shards in flight, each in a child process.
        """
        self.workers = max(1, workers)
        self.retries = retries
        self._flags = _flags(self.workers, options)
        _parsed(self._flags)

    def __enter__(self) -> Self:
        """Return the runner; processes start with the first task."""
        CHILDREN.hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes: at once after an error or Ctrl-C, their shards are redone."""
        if kind is not None:
            CHILDREN.kill()
        CHILDREN.release()

    def check(self, jobs: Sequence[Job]) -> None:
        """Open and check workers of these jobs on this machine, before a cluster is paid for.

        Those that need a GPU are left to the cluster where the work goes elsewhere: the machine
        that submits it may have none.
        """
        runner, in_flight = _runner("check", _parsed(self._flags))
        if not isinstance(runner, FnApiRunner):
            jobs = [job for job in jobs if not job.resources.num_gpus]
        with contextlib.ExitStack() as lent:
            # As many as will work: one that starts later would be behind to the end of a step.
            children = [lent.enter_context(CHILDREN.one()) for _ in range(in_flight)]
            turns = zip(itertools.cycle(children), jobs, strict=False)
            for checked in [child.submit(check_job, job) for child, job in turns]:
                try:
                    checked.result()
                except WorkerDied as error:
                    raise cannot_open(self.workers) from error

    def map(self, job: Job, tasks: Sequence[ShardTask], on_done: OnDone) -> None:
        """Run every task to its commit. See `pipelines.runners.Runner.map`.

        ``on_done`` is called in this thread, once for each task. What a lost process of Beam
        had not done yet is run again.
        """
        now = Round(job, {task.shard: task for task in tasks}, on_done)
        lost = 0
        while now.todo():
            try:
                self._run(now)
                break
            except ProcessLost as error:
                lost += 1
                if lost > self.retries:
                    raise FacepipeError(
                        f"Beam's worker processes died {lost} times ({error}): most likely "
                        "memory runs out. Use fewer --workers, then run the same command again"
                    ) from error
        now.end(self.retries)

    def _run(self, now: Round) -> None:
        """Run a pipeline over what is left."""
        run = Run(now)
        options = _parsed(self._flags)
        runner, in_flight = _runner(run.name, options)
        here = isinstance(runner, FnApiRunner)
        shards = RunShards(now.job, run.name, in_flight, self.retries, ask=not here)
        pipeline = _pipeline(shards, now.todo(), options, runner)
        try:
            with contextlib.nullcontext() if here else _own_temporary_folder():
                run.follow(lambda: _execute(pipeline, run), look=not here)
        except (FacepipeError, ProcessLost):
            raise
        except Exception as error:
            raise _explained(error) from error


class RunShards(beam.DoFn):
    """Runs shards in children, and tells what became of each; outputs nothing."""

    def __init__(self, job: Job, run: str, in_flight: int, retries: int, ask: bool) -> None:
        """Set what to run; with ``ask`` a shard that is committed already is passed over.

        A runner that tries a bundle again gives it all of its shards again.
        """
        self._run, self._job, self._in_flight, self._retries = run, job, in_flight, retries
        self._ask = ask and isinstance(job, RecordedJob)
        self._failed = Metrics.string_set(RunShards, "failed")
        self._window: Window

    @property
    def memory_bytes(self) -> int:
        """Return what a worker of the job asks for."""
        return self._job.resources.memory_bytes

    def setup(self) -> None:
        """Keep children, and the models they open, until the teardown."""
        _forget_main()
        CHILDREN.hold()

    def start_bundle(self) -> None:
        """Open a window on the bundle's shards."""
        self._window = Window(
            self._job, self._in_flight, self._retries, lambda: is_stopped(self._run)
        )

    def process(self, task: ShardTask) -> None:
        """Start a shard, once there is room for it."""
        if self._ask and isinstance(self._job, RecordedJob):
            for commit in self._job.committed([task]):
                return self._tell(Outcome(task, commit))
        for outcome in self._window.add(task):
            self._tell(outcome)

    def finish_bundle(self) -> None:
        """Wait for the shards in flight."""
        for outcome in self._window.drain():
            self._tell(outcome)
        self._window.close()

    def teardown(self) -> None:
        """Let the children go."""
        CHILDREN.release()

    def _tell(self, outcome: Outcome) -> None:
        """Report an outcome. Raises what ends the run, so that the pipeline fails with it."""
        if isinstance(outcome.result, WorkerDied):  # stopped
            raise outcome.result
        report = report_of(self._run, outcome.task, outcome.result)
        tell(report)
        if "fatal" in report:
            self._window.close()
            raise RuntimeError(sealed(report["fatal"]))
        if "failed" in report:
            cause = {**report, "failed": report["failed"][:_CAUSE_CHARS]}
            self._failed.add(json.dumps(cause))  # type: ignore[no-untyped-call]


def _forget_main() -> None:
    """Keep children from importing what Beam's own worker process was started with: Beam."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None and main.__spec__.name.startswith("apache_beam."):
        main.__spec__ = None
        main.__file__ = None


def save_pipeline(
    job: Job, tasks: Sequence[ShardTask], path: Path, options: Sequence[str] = (), retries: int = 2
) -> None:
    """Write what a portable runner is given for a map: Beam's Pipeline, as protobuf bytes."""
    parsed = _parsed(_flags(1, options))
    shards = RunShards(job, "saved", in_flight=1, retries=retries, ask=True)
    pipeline = _pipeline(shards, tasks, parsed, FnApiRunner())
    with _own_temporary_folder():
        proto = PortableRunner.get_proto_pipeline(pipeline, parsed)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _pipeline(shards: RunShards, tasks: Sequence[ShardTask], options: Any, runner: Any) -> Any:
    pipeline = beam.Pipeline(runner=runner, options=options)
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # a killed driver would leave it
    create: Any = beam.Create(tasks, reshuffle=False)  # type: ignore[no-untyped-call]
    spread: Any = beam.Reshuffle()  # type: ignore[no-untyped-call]
    run: Any = beam.ParDo(shards)  # type: ignore[no-untyped-call]
    if shards.memory_bytes:
        run = run.with_resource_hints(min_ram=f"{shards.memory_bytes}B")
    _ = pipeline | "Shards" >> create | "Spread" >> spread | "RunShards" >> run
    return pipeline


def _execute(pipeline: Any, run: Run) -> None:
    """Run a pipeline to its end, and pass on which shards were given up."""
    result = pipeline.run()
    run.cancel = result.cancel
    if run.stopped:  # while it was being submitted
        result.cancel()
    state = result.wait_until_finish()
    if state not in (None, PipelineState.DONE):
        raise RuntimeError(f"the job ended as {state}")
    found = result.metrics().query(MetricsFilter().with_name("failed"))
    for metric in found.get("string_sets", []):
        for cause in sorted(metric.result or ()):
            run.hear(json.loads(cause))


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Remove what Beam leaves behind of files that it stages."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="facepipe-beam-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _explained(error: Exception) -> FacepipeError:
    """Return a worker's own error where Beam's text holds one, or its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return unsealed(str(error)) or FacepipeError(
        f"Beam failed: {text}; what was finished is kept: run the same command again"
    )


# -- options and runners -------------------------------------------------------------------


def _flags(workers: int, options: Sequence[str]) -> list[str]:
    """Return Beam's options with ours before them: of an option given twice the last counts."""
    return [
        "--runner=FnApiRunner",  # DirectRunner tries Prism first, which downloads a binary
        "--direct_running_mode=in_memory",
        f"--direct_num_workers={workers}",
        "--no_save_main_session",  # all is importable, and `__main__` is the command line
        *options,
    ]


def _parsed(flags: Sequence[str]) -> Any:
    """Return Beam's options. Raises UsageError where argparse would print and exit."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = options_of.PipelineOptions(list(flags))
            options.get_all_options()
    except SystemExit as error:
        raise UsageError(
            f"Beam's options: {said.getvalue().partition('error: ')[2].strip()}"
        ) from error
    return options


def _runner(run: str, options: Any) -> tuple[Any, int]:
    """Return a Beam runner, and how many shards each of its workers keeps in flight."""
    name = options.view_as(options_of.StandardOptions).runner
    if name.lower() not in ("fnapirunner", "directrunner"):
        try:
            return create_runner(name), 1
        except (ValueError, ImportError) as error:
            raise UsageError(f"--runner={name}: {error}") from error
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # what matters is raised
    direct = options.view_as(options_of.DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        direct.direct_running_mode = "in_memory"  # or Beam would start processes its own way
        return FnApiRunner(default_environment=_ProcessEnvironment(run)), 1
    if direct.direct_running_mode == "in_memory":
        in_flight = direct.direct_num_workers or os.cpu_count() or 1
        direct.direct_num_workers = 1  # of Beam's, which hands shards to as many children
        return FnApiRunner(), in_flight
    return FnApiRunner(), 1


# -- FnApiRunner's multi-processing mode ---------------------------------------------------


class _ProcessEnvironment(environments.Environment):
    """Says that Beam's workers are processes that belong to a run."""

    def __init__(self, run: str) -> None:
        super().__init__(capabilities=environments.python_sdk_capabilities())
        self._run = run

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return _PROCESS, self._run.encode()


@worker_handlers.WorkerHandler.register_environment(_PROCESS, bytes)
class _ProcessHandler(worker_handlers.GrpcWorkerHandler):
    """Starts such a process and ends it.

    Beam's SubprocessSdkWorkerHandler waits for ever for the answer of a process that was
    killed, and does not end its processes when the run is given up.
    """

    def __init__(self, run: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._run = driven(run.decode())

    def start_worker(self) -> None:
        assert self._run is not None
        environment = {
            "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{self.control_address}"',
            "WORKER_ID": self.worker_id,
        }
        call = "from pipelines.runners.beam import work; work()"
        self._process = Process(self._run, call, environment, self._mourn)

    def stop_worker(self) -> None:
        self._process.end()

    def _mourn(self, lost: ProcessLost) -> None:
        """Let Beam give up waiting for an answer, and for data."""
        self.control_conn.abort(lost)
        self.data_conn.close()


def work() -> None:
    """Be a worker process of FnApiRunner's multi-processing mode."""
    begin()
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    sdk_worker_main.main([])  # type: ignore[no-untyped-call]
