"""The collector: wires broker -> link -> ingest -> store -> API -> page, in the order in which data flow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import uvicorn

from collector.config import CollectorConfig, Http
from collector.fleet.board import Board
from collector.fleet.commands import CommandDispatch, frame_of
from collector.fleet.fleet import Fleet
from collector.fleet.live_room import LiveRoom
from collector.fleet.node_state import after_refusal
from collector.health import WARNINGS, CollectorProblem, CollectorProblems, problem
from collector.ingest.writer import Ingest, IngestSettings
from collector.ledger.comparison import Gone
from collector.ledger.enrolled import EnrolledNodes, NodeKeys
from collector.ledger.ledger import Ledger
from collector.mqtt.link import AckLink, Link, LinkIdentity
from collector.mqtt.received import Receiver
from collector.pilots.report.making import ReportMaker
from collector.pruning import PRUNE, Pruner
from collector.requests import answer, requested
from collector.reset import RESET, reset
from collector.rights.accounts import Accounts
from collector.rights.directory import Directory
from collector.rights.shown_problems import shown_problems
from collector.rights.user import Action, User
from collector.rollout.driver import Rollouts, Standing
from collector.rollout.packages import Packages
from collector.rollout.records import RolloutRecords
from collector.state.audit import Audit
from collector.state.commands import CommandRecord, CommandRecords
from collector.state.desired import DesiredDocument, DesiredDocuments
from collector.state.pilot_plans import PilotPlans
from collector.state.state_file import StateFile, StateNewer
from collector.store.reader import Readers
from collector.store.store import SqliteStore
from collector.upkeep import EVERY_S, Upkeep
from collector.version import installed_version
from collector.web.access import Door
from collector.web.api import Sources, build
from collector.web.commands import CommandRoutes
from collector.web.connections import HEAD_S, KEEP_S, Places
from collector.web.desired import DesiredRoutes
from collector.web.event_stream import Hub
from collector.web.fleet_pages import FleetPages
from collector.web.listener import BoundedListener
from collector.web.models import ModelRoutes
from collector.web.node_access import NodeAccess
from collector.web.pilot_reports import PilotReportRoutes
from collector.web.rollouts import RolloutRoutes
from collector.web.tls import ServerTls
from wire.clock import Clock
from wire.codec import encode
from wire.errors import ConfigError, EdgebedError, TryAgain, on_purpose
from wire.messages import Cmd, Desired
from wire.printable import counted
from wire.reasons import because
from wire.topics import NODE_ITSELF, ROOT

log = logging.getLogger(__name__)

FLEET_EVERY_S = 1.0
JUDGE_EVERY_S = 5.0
COMMANDS_EVERY_S = 1.0
RIGHTS_EVERY_S = 1.0  # how long what `edgebed user` changes may take
FIRST_UPKEEP_S = 10.0  # how long the start waits for the day files to be checked


class Collector:
    """One collector; it owns the store from construction on. `run` ends when cancelled or after `stop`."""

    def __init__(self, config: CollectorConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        token = config.http.token()
        self.enrolled = EnrolledNodes(config.enrolled_file)
        keys = None if (secret := config.mac_secret()) is None else NodeKeys(secret, self.enrolled)
        self.tls = config.http.tls()
        config.broker.password()  # report wrong files before anything starts
        config.broker.ssl_context()
        self.problems = CollectorProblems(clock)
        self._judge_http()
        self.socket = _listen(config.http)
        try:
            self.store = SqliteStore(config.store, clock, config.retention_days, config.retention)
        except BaseException:
            self.socket.close()
            raise
        self.state = StateFile(self.store.folder, owns_store=True)
        try:
            self.state.check()
        except StateNewer:
            self.store.close()
            self.socket.close()
            raise
        except EdgebedError:
            self._judge_state()  # data are stored and acknowledged all the same
        self.directory = Directory(Accounts(self.state, clock), clock)
        self.directory.refresh()
        saved = self.store.load()
        self.ledger = Ledger(saved.marks, saved.states)
        self.fleet = Fleet(
            clock, self.ledger, LiveRoom(config.shares.node.live_kb, config.shares.tenant.live_kb)
        )
        self.fleet.restore(saved.states)
        self.places = Places(share=config.http.connections_per_address, proxies=config.http.proxies)
        self.hub = Hub(config.http.proxies)
        self.pages = FleetPages(Board(self.fleet, clock), self.hub)
        self.commands = CommandDispatch(
            CommandRecords(self.state), self.fleet, clock, self._publish, self._show_command
        )
        self.ingest = Ingest(
            self.store,
            self.fleet,
            self.hub,
            clock,
            IngestSettings(config.id, config.group_commit_ms, config.shares, self.enrolled),
            self.problems,
        )
        self.ingest.pass_answers_to(self.commands.on_answer)
        ingest, home = self.ingest, f"{socket.gethostname()}:{self.store.folder.resolve()}"
        self.link = Link(
            config.broker,
            LinkIdentity(config.id, home=home, sign=None if keys is None else keys.sign),
            clock,
            Receiver(ingest.receive, ingest.is_full, ingest.admits, ingest.probes),
            acks=AckLink(config.broker, config.id, clock),
        )
        self.readers = Readers(self.store.source)
        self.documents = DesiredDocuments(self.state)
        self._published = _Published()
        self.pruner = Pruner(self.store, config.quotas, ingest.written_today)
        self.upkeep = Upkeep(self.pruner, self.readers, self.ledger, self.problems, clock, self._forget)
        packages, audit, records = self._open_rollouts()
        sources = Sources(
            clock,
            self.fleet,
            self.ledger,
            self.readers,
            self.hub,
            self.directory,
            audit,
            health=self.health,
            problems=self.current_problems,
            pages=self.pages,
            desired=DesiredRoutes(self.documents, self.fleet, audit, clock, self._publish_desired),
            commands=CommandRoutes(records, self.commands, self.fleet, audit, clock),
            models=ModelRoutes(packages, audit, clock, self.rollouts.offered, self.rollouts.in_use),
            rollouts=RolloutRoutes(self.rollouts, packages, self.fleet, audit, clock),
            reports=self._open_reports(),
        )
        self.app = build(
            sources,
            Door(self.directory, config.http.is_loopback, token, NodeAccess(keys, self.enrolled, clock)),
            names=[*config.http.names, config.http.host],
            session_ms=config.http.session_hours * 3_600_000,
        )
        self.server = _Server(
            uvicorn.Config(
                self.app,
                log_config=None,
                log_level="error",  # a warning for each malformed request would fill the log
                access_log=False,
                lifespan="off",
                server_header=False,
                http=self.places.protocol,  # type: ignore[arg-type]  # makes a protocol like the class does
                ws="none",
                forwarded_allow_ips=config.http.proxies,
                timeout_keep_alive=int(KEEP_S),
                timeout_graceful_shutdown=3,
                h11_max_incomplete_event_size=16_384,
            ),
            self.tls,
        )
        self._began = clock.monotonic()

    def _open_rollouts(self) -> tuple[Packages, Audit, CommandRecords]:
        """Make the rollouts, and what the routes need of them."""
        packages = Packages(self.store.folder, self.config.models_mb * 1_000_000)
        records = CommandRecords(self.state)
        standing = Standing(partial(self.directory.still_may, Action.CONFIGURE), self.enrolled.is_removed)
        self.rollouts = Rollouts(
            RolloutRecords(self.state), records, self.commands, self.fleet, self.clock, standing
        )
        return packages, Audit(self.state), records

    def _open_reports(self) -> PilotReportRoutes:
        """Make what gives the reports of pilots."""
        self.reports = ReportMaker(self.store.folder, self.ledger, self.clock)
        plans, recorded = PilotPlans(self.state), self.fleet.pilot_events.of
        return PilotReportRoutes(plans, self.documents, self.reports, self.clock, recorded)

    @property
    def url(self) -> str:
        """The address of the page."""
        host, port = self.socket.getsockname()[:2]
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`; `ready` is called when the page can be opened.

        Raises:
            ConfigError: another collector with the same id is connected.
        """
        self.hub.open()
        first = asyncio.ensure_future(asyncio.to_thread(self.upkeep.step))
        try:
            # what is missing is known when the page opens
            await asyncio.wait([first], timeout=FIRST_UPKEEP_S)
            self.ingest.start(self.link)
            self.link.start()
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch_fleet(), name="fleet-watcher")
                sweeping = tasks.create_task(self.places.sweep(), name="http-sweeper")
                rights = tasks.create_task(self._watch_rights(), name="rights-watcher")
                upkeep = tasks.create_task(self._keep_up(first), name="store-upkeep")
                commands = tasks.create_task(self._keep_commands(), name="commands")
                serving = tasks.create_task(self.server.serve([self.socket]), name="http")
                ready()
                await serving
                watching.cancel()
                upkeep.cancel()
                sweeping.cancel()
                rights.cancel()
                commands.cancel()
        except BaseExceptionGroup as group:
            raise on_purpose(group) or group from None
        finally:
            await asyncio.to_thread(self._end)

    def stop(self) -> None:
        """End `run`; from the event loop."""
        self.hub.close()
        self.reports.stop()
        self.server.should_exit = True

    def _end(self) -> None:
        """Stop in data-flow order: receive no more, store what waits, acknowledge it, close."""
        self.upkeep.stop()
        self.hub.close()
        self.link.hold()
        self.ingest.stop()
        self.link.stop()
        self.reports.close()
        self.readers.close()
        self.store.close()
        self.app.state.sign_in.close()
        self.state.close()
        self.socket.close()

    async def _watch_fleet(self) -> None:
        """Judge the fleet on a timer, and send every page the nodes that changed, at most once a second."""
        shown: list[CollectorProblem] = []
        judge_at = -math.inf
        while True:
            if self.link.refused is not None:
                raise self.link.refused
            if not (self.ingest.is_alive and self.link.is_alive):
                raise EdgebedError("a thread of the collector ended by itself: see the log above")
            await asyncio.to_thread(self._answer_commands)
            self.ingest.refuse_tenants(self.pruner.full)
            await asyncio.to_thread(self._publish_all_desired)
            await asyncio.to_thread(self.rollouts.step)
            if self.clock.monotonic() >= judge_at:
                await asyncio.to_thread(self._judge)
                judge_at = self.clock.monotonic() + JUDGE_EVERY_S
            self.ingest.watch_backlog()
            self.ingest.name_refused()
            if shown != (problems := await asyncio.to_thread(self.current_problems)):
                self.hub.broadcast("health", partial(_health_frame, problems))
                shown = problems
            await self.pages.turn()
            await self.clock.sleep(FLEET_EVERY_S)

    async def _watch_rights(self) -> None:
        """Follow what `edgebed user` changes, and close the streams whose rights ended."""
        while True:
            await asyncio.to_thread(self.directory.refresh)
            with contextlib.suppress(TryAgain):  # the users were never read, so there is no stream
                self.hub.drop(self.directory.is_current)
            await self.clock.sleep(RIGHTS_EVERY_S)

    async def _keep_commands(self) -> None:
        """Follow the commands: at once when one is requested or answered, and each second."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self.commands.wake = lambda: _wake(loop, woken)
        while True:
            woken.clear()
            await asyncio.to_thread(self.commands.step, online=self.link.state.state == "online")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COMMANDS_EVERY_S):
                    await woken.wait()

    async def _keep_up(self, first: asyncio.Future[None]) -> None:
        await first
        while True:
            await self.clock.sleep(EVERY_S)
            await asyncio.to_thread(self.upkeep.step)

    def _forget(self, gone: Gone) -> None:
        """Have the writer take messages out of the ledger that are in no day file."""
        now = self.clock.now_ms()
        for key, one in gone.items():
            self.ingest.do(partial(self.ledger.forget, key, one.numbers, one.rows, now))

    def _publish(self, topic: str, body: Cmd | Desired) -> None:
        self.link.settle((), [(topic, encode(body))])

    def _show_command(self, record: CommandRecord) -> None:
        if self.hub.is_wanted(record.node, NODE_ITSELF):
            self.hub.post(*frame_of(record))

    def _publish_desired(self, document: DesiredDocument) -> None:
        self._publish(f"{ROOT}/{document.node}/desired/{document.what}", document.message())

    def _publish_all_desired(self) -> None:
        """Publish every document again after each connect: the broker may have lost what it retained.

        A node that is removed or comes back has another key: its document is signed again.
        """
        link, last = self.link.state, self._published
        now = link.connects, self.enrolled.version
        if link.state != "online" or now == last.after:
            return
        try:
            documents = self.documents.all()
        except EdgebedError:  # reported by `_judge_state`
            return
        for document in documents:
            generation = self.enrolled.generation(document.node)
            if link.connects != last.after[0] or generation != last.generations.get(document.node):
                self._publish_desired(document)
                last.generations[document.node] = generation
        last.after = now

    def _answer_commands(self) -> None:
        """Do what `edgebed collector reset-node` (between two commits) and `prune` ask for."""
        folder = self.store.folder
        node = requested(folder, RESET)
        if node:
            self.ingest.do(lambda: answer(folder, RESET, reset(self.ledger, self.fleet, node)))
        if requested(folder, PRUNE):
            self.upkeep.prune_now()
            answer(folder, PRUNE, [])

    def _judge(self) -> None:
        """Judge the fleet, what arrives of it, `state.db`, and the copy of the store's marks."""
        self.fleet.judge()
        self._judge_state()
        self._judge_tls()
        link, copy, packing = self.link.state, self.store.copy_problem, self.store.packing_problem
        since = link.since if link.state == "online" else self.clock.now_ms()
        # while messages wait for long here or at the broker, those of all nodes may
        nodes, waiting = ([], []) if self.ingest.explains_silence else self.fleet.held_back(since)
        if nodes:
            text = (
                f"the status of {counted(len(nodes), 'node')} arrives, but none of their data, "
                f"such as of {nodes[0]}: check the access rules of the broker"
            )
            self.problems.report(because(text, "data-not-received", n=len(nodes), node=nodes[0]))
        else:
            self.problems.clear("data-not-received")
        if waiting:
            self.problems.report(after_refusal(waiting))
        else:
            self.problems.clear("waits-after-refusal")
        if copy:
            self.problems.report(because(copy, "store-copy-failed", detail=copy))
        else:
            self.problems.clear("store-copy-failed")
        if packing:
            self.problems.report(because(packing, "store-not-packed", detail=packing))
        else:
            self.problems.clear("store-not-packed")

    def _judge_http(self) -> None:
        """Report what is doubtful in the config of the page."""
        http = self.config.http
        if not http.is_private:
            text = (
                f"other machines can reach the page on {http.host} without TLS: logins are refused; set "
                "http.cert_file and http.key_file, or name the proxy that does TLS in http.proxies"
            )
            self.problems.report(because(text, "no-tls"))
        if http.token_file is not None:
            text = (
                "http.token_file opens everything to everyone who has it, and goes with the next release: "
                "make users with `edgebed user add` and API tokens with `edgebed user token`"
            )
            if http.token_is_readable:
                text += f"; other users of this machine can read it: chmod 600 {http.token_file}"
            self.problems.report(because(text, "token-file"))

    def _judge_tls(self) -> None:
        """Take a renewed certificate, and report one that cannot be used or ends soon."""
        if self.tls is None:
            return
        try:
            self.tls.refresh()
            text = self.tls.expiry(datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC))
        except ConfigError as error:
            text = str(error)
        if text:
            self.problems.report(because(text, "tls-certificate", detail=text))
        else:
            self.problems.clear("tls-certificate")

    def _judge_state(self) -> None:
        """Report a `state.db` that cannot be used."""
        try:
            self.state.check()
        except EdgebedError as error:
            self.problems.report(because(str(error), "state-unusable", detail=str(error)))
        else:
            self.problems.clear("state-unusable")

    def current_problems(self) -> list[CollectorProblem]:
        """Everything that makes the collector degraded; any thread, but it lists the store's folder."""
        link, url = self.link.state, self.config.broker.url
        self.upkeep.note_damage()
        if removed := self.store.problem:
            self.problems.report(because(removed, "store-file-removed", detail=removed))
        found = self.problems.current()
        if link.state != "online":
            why = because(
                f"no broker at {url}: {link.why or link.state}", "broker-offline", where=url, detail=link.why
            )
            found.insert(0, problem(why, link.since))
        return found

    def health(self, user: User) -> dict[str, Any]:
        """The collector's own state, for /api/v1/health; only who sees all gets figures. Any thread."""
        link, store, ingest = self.link.state, self.store.status(), self.ingest
        problems = shown_problems(user, self.current_problems())
        found = {
            "state": "degraded" if any(one.code not in WARNINGS for one in problems) else "ok",
            "problems": msgspec.to_builtins(problems),
            "id": self.config.id,
            "ver": installed_version(),
            "now": self.clock.now_ms(),
            "uptime_s": int(self.clock.monotonic() - self._began),
        }
        if not user.sees_all:
            state = "blocked" if ingest.problem else "ok"
            return {**found, "broker": {"state": link.state}, "store": {"state": state}}
        return {
            **found,
            "broker": {"url": self.config.broker.url, **_fields(link)},
            "store": {
                **msgspec.to_builtins(store),
                "state": "blocked" if ingest.problem else "ok",
                "trouble": ingest.problem or store.problem,
            },
            "backlog": ingest.backlog,
            "overload": msgspec.to_builtins(ingest.overload),
            "viewers": self.hub.viewers,
            **msgspec.to_builtins(ingest.counters),
            "refused_by": ingest.refused_shares(),
        }


def run(config: CollectorConfig, clock: Clock, announce: Callable[[str], None]) -> int:
    """Run a collector until SIGTERM or SIGINT and return the signal; `announce` gets its address.

    Raises:
        TryAgain: the port is in use, or the store belongs to another collector.
        ConfigError: another collector with the same id is connected.
        EdgebedError: the store or a secret cannot be used.
    """
    collector = Collector(config, clock)

    stopped_by = 0

    def stop(number: int) -> None:
        nonlocal stopped_by
        stopped_by = number
        collector.stop()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        await collector.run(lambda: announce(collector.url))

    # SQLite releases the interpreter lock thousands of times a second. With the default of 5 ms to get it
    # again, the receiving thread would starve the writing one.
    sys.setswitchinterval(0.001)
    # Each commit replaces the accounts of its nodes. With the default thresholds Python scans all accounts
    # every few seconds: with 10,000 nodes 40 % of the CPU time, and 0.6 s without a receiving thread.
    gc.set_threshold(10_000, 10, 50)
    asyncio.run(serve())
    return stopped_by


@dataclass(slots=True)
class _Published:
    """After which connection and enrolments the desired documents were published, signed with which keys."""

    after: tuple[int, object] = (0, None)
    generations: dict[str, int] = field(default_factory=dict)


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: messages arrive until the link has stopped
        loop.call_soon_threadsafe(woken.set)


def _health_frame(problems: Sequence[CollectorProblem], user: User) -> dict[str, Any]:
    return {"problems": shown_problems(user, problems)}


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the collector stops in its own order."""

    def __init__(self, config: uvicorn.Config, tls: ServerTls | None) -> None:
        super().__init__(config)
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. A TLS handshake has the deadline that the head of a request has."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        made = partial(
            protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        context, limit_s = (None, None) if self._tls is None else (self._tls.context, HEAD_S)
        self.servers = [
            await loop.create_server(
                made,
                sock=each,
                ssl=context,
                ssl_handshake_timeout=limit_s,
                backlog=self.config.backlog,
            )
            for each in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(http: Http) -> socket.socket:
    try:
        found = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = found[0]
        listener = BoundedListener(
            family, kind, proto, share=http.connections_per_address, proxies=http.proxies
        )
    except OSError as error:
        raise EdgebedError(
            f"http.host {http.host!r} is not an address of this machine: {error.strerror or error}"
        ) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise TryAgain(
            f"port {http.port} on {http.host} cannot be used: {error.strerror}; "
            "stop what listens there or use --port"
        ) from error
    listener.setblocking(False)
    return listener


def _fields(state: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(state)
    return found
