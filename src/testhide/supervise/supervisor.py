"""Supervisor of services: starts them in order, restarts those that end, and stops them in order. Knows nothing of CI.

It has one thread and one select loop over signals and the services' output. asyncio would cost 10 MB for as long as the
stack runs. If the supervisor is killed by SIGKILL, the watchdog ends its services.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from testhide.operator_errors import Fault
from testhide.supervise.child import Child, Service
from testhide.supervise.orphan_processes import record_running
from testhide.supervise.program import Program, send
from testhide.supervise.watchdog import Watchdog

# Seconds after the stop at which the services of each wave are killed if they still run. All ends within 5 s.
WAVE_DEADLINES_S = (1.2, 3.0, 4.4)
KILLED = "somebody killed it, or the kernel did for want of memory"
_CHECK_INTERVAL_S = 0.02  # seconds between two checks of a condition
_MAX_EARLY_DEATHS = 3  # deaths of a child before it was ready, after which the start fails


@dataclass(frozen=True)
class Start:
    """Step that starts services together. The next step begins when all of them are ready."""

    services: tuple[Service, ...]
    timeout: float = 60.0


@dataclass(frozen=True)
class Run:
    """Step that runs a program, which must end with exit code 0. The program prints to the supervisor's standard
    output.
    """

    program: Program
    timeout: float = 300.0


@dataclass(frozen=True)
class Await:
    condition: Callable[[], bool]
    what: str
    timeout: float = 60.0


@dataclass(frozen=True)
class Say:
    text: str


Step = Start | Run | Await | Say


class _Stop(Exception):
    pass


class Supervisor:
    def __init__(self, steps: Sequence[Step], folder: Path, *, verbose: bool = False) -> None:
        """Prepare to run the steps. Writes run/processes.json and logs/ in `folder`."""
        self._steps = steps
        self._verbose = verbose
        self._record = folder / "run" / "processes.json"
        self._logs = folder / "logs"
        self._children: list[Child] = []
        self._signals = 0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Run the steps, then supervise until a signal or a Fault. Returns the exit code: 0 after a signal, or that of
        the Fault.
        """
        code = 0
        for folder in (self._record.parent, self._logs):
            folder.mkdir(mode=0o700, exist_ok=True)
        with self._signals_caught():
            self._watchdog = Watchdog()
            try:
                for step in self._steps:
                    self._take(step)
                while True:
                    self._tick(None)
            except _Stop:
                pass
            except Fault as fault:
                self._report(str(fault))
                code = fault.exit_code
            finally:
                self._shut_down()
                self._watchdog.close()
        return code

    # Starting

    def _take(self, step: Step) -> None:
        match step:
            case Start(services, timeout):
                children = [self._add(service) for service in services]
                names = ", ".join(child.name for child in children)
                self._wait(lambda: all(child.is_ready() for child in children), names, timeout)
            case Run(program, timeout):
                self._run_to_end(program, timeout)
            case Await(condition, what, timeout):
                self._wait(condition, what, timeout)
            case Say(text):
                _print(1, text)

    def _add(self, service: Service) -> Child:
        child = Child(service, self._logs, self._report, verbose=self._verbose)
        self._children.append(child)
        self._start(child)
        return child

    def _start(self, child: Child) -> None:
        try:
            output = child.start()
        except OSError as error:
            raise Fault(f"{child.name} cannot be started: {error}") from None
        self._selector.register(output, selectors.EVENT_READ, child)
        self._note_running()

    def _run_to_end(self, program: Program, timeout: float) -> None:
        child = Child(Service(program, prints=True), self._logs, self._report, verbose=self._verbose, one_shot=True)
        self._children.append(child)
        self._start(child)
        deadline = time.monotonic() + timeout
        code = None
        while code is None:
            self._tick(_CHECK_INTERVAL_S)
            if time.monotonic() > deadline:
                raise Fault(f"{child.name} did not end within {timeout:.0f} s.")
            code = child.poll()
        self._drain()
        self._children.remove(child)
        child.close()
        self._note_running()
        if code != 0:
            raise Fault(f"{child.name} failed: {child.why()}")

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            self._tick(_CHECK_INTERVAL_S)
            hopeless = next((child for child in self._children if child.failures >= _MAX_EARLY_DEATHS), None)
            if hopeless is not None:
                raise Fault(f"{hopeless.name} does not start: {hopeless.why()}")
            if time.monotonic() > deadline:
                raise Fault(f"{what}: not ready after {timeout:.0f} s.")
        for child in self._children:
            child.failures = 0

    # Running

    def _tick(self, timeout: float | None) -> None:
        """Do one round of supervision: read output, notice services that ended, and restart services whose pause is
        over. Raises _Stop after a signal.
        """
        due = [child.due for child in self._children if child.due is not None]
        if due:
            pause = max(0.0, min(due) - time.monotonic())
            timeout = pause if timeout is None else min(timeout, pause)
        self._read_output(timeout)
        if self._signals:
            raise _Stop
        for child in self._children:
            if child.one_shot:
                continue
            code = child.poll()
            if code is not None:
                self._drain()
                pause = child.schedule()
                self._note_running()
                # A killed process cannot say why: its last line is about something else.
                why = KILLED if code == -signal.SIGKILL else child.why()
                self._report(f"{child.name} ended ({_ending(code)}), again in {pause:.1f} s: {why}")
            elif child.due is not None and child.due <= time.monotonic():
                self._restart(child)

    def _restart(self, child: Child) -> None:
        try:
            self._start(child)
        except Fault as fault:
            pause = child.schedule()
            self._report(f"{fault} Again in {pause:.1f} s.")

    def _read_output(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
                continue
            try:
                content = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            if content:
                key.data.take_output(content)
            else:
                self._selector.unregister(key.fd)
                os.close(key.fd)

    def _drain(self) -> None:
        """Read the output that ended processes left in their pipes."""
        for _ in range(16):
            self._read_output(0)

    def _note_running(self) -> None:
        running = [(child, child.process) for child in self._children if child.process is not None]
        self._watchdog.watch(
            (signal.Signals(child.service.program.stop_signal).name[3:], process.pid) for child, process in running
        )
        # On a full disk the stack goes on: only a start after a SIGKILL of the supervisor needs this record.
        with contextlib.suppress(OSError):
            record_running(self._record, [(child.name, process.pid) for child, process in running])

    # Stopping

    def _shut_down(self) -> None:
        begin = time.monotonic()
        for child in self._children:
            child.due = None
        for wave in sorted({child.service.wave for child in self._children}):
            members = [child for child in self._children if child.service.wave == wave]
            deadline = begin + WAVE_DEADLINES_S[min(wave, len(WAVE_DEADLINES_S) - 1)]
            for child in members:
                if child.process is not None:
                    send(child.process.pid, child.service.program.stop_signal)
            # A second signal from an impatient operator ends the waiting.
            while any(child.running for child in members) and time.monotonic() < deadline and self._signals < 2:
                self._read_output(_CHECK_INTERVAL_S)
                for child in members:
                    child.poll()
            for child in members:
                if child.process is not None:
                    self._report(f"{child.name} does not stop: killed.")
                    _abort(child.process, child.service.program.abort_signal)
                    child.poll()
        self._note_running()
        self._record.unlink(missing_ok=True)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._selector.unregister(key.fd)
                os.close(key.fd)
        for child in self._children:
            child.close()

    # Around it

    def _report(self, text: str) -> None:
        _print(2, f"testhide: {text}")

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:
            self._signals += 1

        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        self._selector.register(read, selectors.EVENT_READ, None)
        stopping = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, count) for number in stopping}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(read)
            os.close(write)


def _abort(process: subprocess.Popen[bytes], abort_signal: int) -> None:
    if abort_signal != signal.SIGKILL:
        send(process.pid, abort_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
            return
    send(process.pid, signal.SIGKILL, group=True)
    process.wait()


def _print(fd: int, text: str) -> None:
    # The reader of the output may be gone; that is no reason to stop.
    with contextlib.suppress(OSError):
        os.write(fd, f"{text}\n".encode())


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
