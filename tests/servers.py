"""Private, throw-away servers for the integration tests.

Each instance runs on free loopback ports, keeps its data in a directory of its own and may be
stopped, killed, paused and started again at will; the system's own servers are never touched.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

START_SECONDS = 60.0
STOP_SECONDS = 20.0

# The programs to look for, by the Debian package that holds them.
PROGRAMS = {
    "redis-server": ("redis-server", "valkey-server"),
    "rabbitmq-server": ("rabbitmq-server",),
    "postgresql": ("postgres",),
    "pgbouncer": ("pgbouncer",),
    "mariadb-server": ("mariadbd", "mysqld"),
}

# The tests' own servers ask for this, so that a log line which tells it is found out.
SECRET = "s3cret"

# Debian's rabbitmq-server in /usr/sbin changes the user, so the plain script goes before it.
SEARCH_PATH = os.pathsep.join(
    [
        "/usr/lib/rabbitmq/bin",
        os.environ.get("PATH", os.defpath),
        "/usr/local/sbin",
        "/usr/sbin",
        *sorted(map(str, Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin")), reverse=True),
    ]
)


def _find(*names: str) -> str:
    """Return the path of the first of these programs that is there."""
    for name in names:
        if path := shutil.which(name, path=SEARCH_PATH):
            return path
    raise RuntimeError(f"not found: {' or '.join(names)}")


def missing_servers() -> list[str]:
    """Return the Debian packages of the servers that were not found."""
    return [
        package
        for package, names in PROGRAMS.items()
        if not any(shutil.which(name, path=SEARCH_PATH) for name in names)
    ]


_random = random.Random()  # its own, as test plugins may seed the shared one
_ports_given: set[int] = set()
_PLACES = 16
_place = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PLACES
"""Of this process among those that test beside each other: each has ports of its own."""


def free_port() -> int:
    """Return a free loopback port, never the same twice.

    It lies below the usual range of outgoing connections: none takes the port while its server
    is down, and no client that tries to connect meanwhile ends up connected to itself.
    """
    for _ in range(1000):
        port = _random.randrange(20000 + _place, 30000, _PLACES)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _ports_given:
                _ports_given.add(port)
                return port
    raise RuntimeError("no free port")


def _processes() -> Iterator[tuple[int, int, int, str]]:
    """Yield pid, parent, group and start time of every process that has not ended."""
    if Path("/proc/self/stat").exists():
        for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
            with contextlib.suppress(OSError):
                stat = Path("/proc", pid, "stat").read_text(errors="replace")
                state, parent, group, *fields = stat.rpartition(")")[2].split()
                if state not in "ZX":
                    yield int(pid), int(parent), int(group), fields[16]
    else:
        command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,state=,lstart="]
        for line in subprocess.check_output(command, text=True).splitlines():
            pid, parent, group, state, start = line.split(None, 4)
            if not state.startswith("Z"):
                yield int(pid), int(parent), int(group), start


def _family(leader: int) -> dict[int, str]:
    """Return the start time, by pid, of this group's processes and all their descendants."""
    family: dict[int, str] = {}
    processes = list(_processes())
    while new := {
        pid: start
        for pid, parent, group, start in processes
        if pid not in family and (group == leader or parent in family)
    }:
        family |= new
    return family


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _trusting() -> ssl.SSLContext:
    """To ask a server whether it is there, whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Server(ABC):
    """One server process with its children, its port and its data directory."""

    package: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    tls_from_the_start: ClassVar[bool] = True
    """Otherwise the client asks for it in the server's own words."""
    url: str
    port: int

    def __init__(self, directory: Path, *, password: str = "") -> None:
        self.port = free_port()
        self.password = password
        self.program = _find(*PROGRAMS[self.package])
        self.directory = directory.resolve() / f"{self.package}-{self.port}"
        self.directory.mkdir(parents=True)
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self.environment = {"PATH": SEARCH_PATH, "HOME": str(self.directory), "LC_ALL": "C"}
        self.user: str | None = None  # of the processes, where it is not the caller's
        self.talks_tls = False
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._at_exit, os.getpid())

    def start(self) -> None:
        """Start and wait until the server answers."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.kill()  # what a crash has left
        if not self.data.exists():
            self._create()
        self._launch()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                raise self._failure(f"{self.program} did not start")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def use_tls(self, certificate: bytes, key: bytes, authority: bytes) -> None:
        """From the next start on talk TLS with this certificate (PEM), and plainly no more.

        The URL has the host name ``localhost`` then; clients may show a certificate of the
        authority.
        """
        self.talks_tls = True
        for name, content in {"cert": certificate, "key": key, "ca": authority}.items():
            path = self._pem(name)
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)
            if self.user:
                shutil.chown(path, self.user)
        scheme = {"redis": "rediss", "amqp": "amqps"}.get(urlsplit(self.url).scheme)
        if scheme:
            self.url = scheme + self.url[self.url.index(":") :]
        self.url = self.url.replace("127.0.0.1", "localhost")

    def _pem(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def stop(self) -> None:
        """End the server cleanly, or by force when that takes too long."""
        if self._process is None:
            return
        self.resume()
        family = _family(self._process.pid)
        self._process.send_signal(self.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._end(family)

    def kill(self) -> None:
        """Kill the server with all its children."""
        if self._process is not None:
            self.pause()  # so that no child is added meanwhile
            self._end(_family(self._process.pid))

    def pause(self) -> None:
        """Halt the server with all its children."""
        paused: set[int] = set()
        while self._process and (new := _family(self._process.pid).keys() - paused):
            _send(new, signal.SIGSTOP)
            paused |= new

    def resume(self) -> None:
        """Let a paused server go on."""
        if self._process is not None:
            _send(_family(self._process.pid), signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _create(self) -> None:
        """Make the data directory, before the first start."""
        self.data.mkdir()

    def _launch(self) -> None:
        """Start the server process."""
        self._process = self._spawn(*self._command())

    @abstractmethod
    def _command(self) -> list[str]:
        """The server's command line."""

    @abstractmethod
    def _answers(self) -> bool:
        """Does the server answer its own clients?"""

    def _spawn(self, *command: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, its output added to the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                cwd=self.directory,
                env=self.environment,
                start_new_session=True,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
            )

    def _run(self, *command: str) -> str:
        """Run a tool of the server to its end and return what it prints."""
        with self._spawn(*command, stdout=subprocess.PIPE) as process:
            try:
                output = process.communicate(timeout=START_SECONDS)[0].decode()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise self._failure(f"{' '.join(command)} failed: {output}")
        return output

    def _failure(self, what: str) -> RuntimeError:
        return RuntimeError(f"{what}\n{self.log.read_text(errors='replace')[-4000:]}")

    def _exchange(self, request: bytes) -> bytes:
        """Return the first bytes of the answer on a new connection, none if there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                if self.talks_tls and self.tls_from_the_start:
                    with _trusting().wrap_socket(connection) as secured:
                        secured.sendall(request)
                        return secured.recv(64)
                connection.sendall(request)
                return connection.recv(64)
        except OSError:
            return b""

    def _end(self, family: dict[int, str]) -> None:
        """Kill what is left of these processes and wait until they are gone."""
        while left := family.items() & {(pid, start) for pid, _, _, start in _processes()}:
            _send([pid for pid, _ in left], signal.SIGKILL)
            time.sleep(0.01)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _at_exit(self, owner: int) -> None:
        if os.getpid() == owner:  # and not a fork of it
            self.stop()


class RedisServer(Server):
    """Redis or Valkey."""

    package = "redis-server"

    def __init__(
        self,
        directory: Path,
        *,
        append_only: bool = False,
        extra: Sequence[str] = (),
        password: str = "",
    ) -> None:
        super().__init__(directory, password=password)
        self.append_only = append_only
        self.extra = list(extra)
        login = f":{password}@" if password else ""
        self.url = f"redis://{login}127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        port = ["--tls-port", str(self.port), "--port", "0", "--tls-auth-clients", "optional"]
        for name, option in {"cert": "cert", "key": "key", "ca": "ca-cert"}.items():
            port += [f"--tls-{option}-file", str(self._pem(name))]
        options = port if self.talks_tls else ["--port", str(self.port)]
        options += ["--bind", "127.0.0.1", "--dir", str(self.data)]
        if self.password:
            options += ["--requirepass", self.password]
        options += ["--save", "", "--appendonly", "yes" if self.append_only else "no"]
        return [self.program, *options, "--maxmemory-policy", "noeviction", *self.extra]

    def _answers(self) -> bool:
        login = f"AUTH {self.password}\r\n" if self.password else ""
        return self._exchange(f"{login}PING\r\n".encode()).startswith((b"+OK", b"+PONG"))


class RabbitServer(Server):
    """RabbitMQ, with an Erlang port mapper (epmd) of its own."""

    package = "rabbitmq-server"

    def __init__(self, directory: Path, *, password: str = "guest") -> None:
        super().__init__(directory, password=password)
        self.url = f"amqp://guest:{self.password}@127.0.0.1:{self.port}/"
        self.epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._config = self.directory / "rabbit.config"
        self._configure()
        plugins = self.directory / "enabled_plugins"
        plugins.write_text("[].\n")
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(f"COOKIE{self.port}")
        cookie.chmod(0o400)
        self.environment |= {
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"nt_{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(self.directory / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.directory / "generated"),
            "RABBITMQ_CONFIG_FILE": str(self._config),
            "RABBITMQ_CONFIG_FILES": str(self.directory / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # Few threads that wait actively for a moment: starts several times faster than the
            # defaults, whose threads go to sleep and wake up all the time.
            "RABBITMQ_SERVER_ERL_ARGS": "+P 65536 +S 2:2 +sbwt very_short"
            " +sbwtdcpu very_short +sbwtdio very_short",
        }

    def ctl(self, *args: str) -> str:
        """Run rabbitmqctl against this node."""
        return self._run(_find("rabbitmqctl"), *args)

    def use_tls(self, certificate: bytes, key: bytes, authority: bytes) -> None:
        super().use_tls(certificate, key, authority)
        self._configure()

    def _configure(self) -> None:
        listener = f'[{{"127.0.0.1", {self.port}}}]'
        settings = [
            f"{{tcp_listeners, {'[]' if self.talks_tls else listener}}}",
            f'{{default_pass, <<"{self.password}">>}}',
            "{disk_free_limit, 1000000}",
        ]
        if self.talks_tls:
            files = {"cacertfile": "ca", "certfile": "cert", "keyfile": "key"}
            options = [f'{{{option}, "{self._pem(name)}"}}' for option, name in files.items()]
            options += ["{verify, verify_peer}", "{fail_if_no_peer_cert, false}"]
            settings += [
                f"{{ssl_listeners, {listener}}}",
                f"{{ssl_options, [{', '.join(options)}]}}",
            ]
        self._config.write_text(f"[{{rabbit, [{', '.join(settings)}]}}].\n")

    def _launch(self) -> None:
        address = ("127.0.0.1", self.epmd_port)
        self._epmd = self._spawn(_find("epmd"), "-port", str(address[1]), "-address", address[0])
        for _ in range(1000):
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
                break
            time.sleep(0.01)
        super()._launch()

    def _command(self) -> list[str]:
        return [self.program]

    def _answers(self) -> bool:
        return self._exchange(b"AMQP\x00\x00\x09\x01").startswith(b"\x01\x00\x00")

    def _end(self, family: dict[int, str]) -> None:
        super()._end(family)
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None


class PostgresServer(Server):
    """PostgreSQL; for root it runs as the user postgres, in a directory that user can reach."""

    package = "postgresql"
    stop_signal = signal.SIGINT  # does not wait for the clients to leave
    tls_from_the_start = False

    def __init__(
        self, directory: Path, *, password: str = "", extra: Mapping[str, str] | None = None
    ) -> None:
        """``extra`` are settings; the default ones forget a commit when the host crashes."""
        self.extra = dict(extra or {})
        if os.geteuid() == 0:
            directory = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))
            directory.chmod(0o711)
        super().__init__(directory, password=password)
        if os.geteuid() == 0:
            self.user = "postgres"
            shutil.chown(self.directory, self.user)
        self.tools = Path(self.program).resolve().parent
        self.url = self._url("postgres")

    def create_database(self, name: str, *, encoding: str = "UTF8") -> str:
        """Create a database and return its URL."""
        psql = [str(self.tools / "psql"), "-X", "-q", self.url]
        options = f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        self._run(*psql, "-c", f'CREATE DATABASE "{name}" {options}')
        return self._url(name)

    def _url(self, database: str) -> str:
        host = "localhost" if self.talks_tls else "127.0.0.1"
        login = f"postgres:{self.password}" if self.password else "postgres"
        return f"postgresql://{login}@{host}:{self.port}/{database}"

    def _create(self) -> None:
        options = ["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        if self.password:
            file = self.directory / "password"
            file.write_text(self.password)
            shutil.chown(file, self.user or os.getuid())
            options += ["-A", "scram-sha-256", f"--pwfile={file}"]
        else:
            options += ["-A", "trust"]
        options += ["--wal-segsize=1", "-D", str(self.data)]
        self._run(str(self.tools / "initdb"), *options)

    def _command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # none: the path could be too long for one
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "dynamic_shared_memory_type": "mmap",  # in the data directory, nothing is left over
            **self.extra,
        }
        if self.talks_tls:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self._pem("cert")),
                "ssl_key_file": str(self._pem("key")),
                "ssl_ca_file": str(self._pem("ca")),
            }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self.program, "-D", str(self.data), *options]

    def _answers(self) -> bool:
        names = b"user\x00postgres\x00database\x00postgres\x00\x00"
        return self._exchange(struct.pack("!ii", len(names) + 8, 3 << 16) + names)[:1] == b"R"

    def _at_exit(self, owner: int) -> None:
        super()._at_exit(owner)
        if self.user and os.getpid() == owner:
            shutil.rmtree(self.directory.parent, ignore_errors=True)


class PgbouncerServer(Server):
    """PgBouncer before a PostgreSQL, in transaction mode: few servers, passed from client to
    client, so that what one leaves behind in a session is met by the next.

    It refuses to run as root: then it runs as PostgreSQL's user, in a directory of that one's.
    """

    package = "pgbouncer"

    def __init__(self, behind: PostgresServer) -> None:
        super().__init__(behind.directory.parent, password=behind.password)
        self.user = behind.user
        self.url = behind.url.replace(str(behind.port), str(self.port))
        users = self.directory / "users.txt"
        users.write_text(f'"postgres" "{self.password}"\n')
        self._config = self.directory / "pgbouncer.ini"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "admin_users": "postgres",
            "pool_mode": "transaction",
            "server_round_robin": 1,
            "default_pool_size": 4,
            "max_client_conn": 200,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        database = f"* = host=127.0.0.1 port={behind.port}"
        self._config.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))
        if self.user:
            for path in (self.directory, users, self._config):
                shutil.chown(path, self.user)

    def url_of(self, url: str) -> str:
        """The URL of a database of the PostgreSQL behind, by way of this one."""
        return self.url.rpartition("/")[0] + "/" + url.rpartition("/")[2]

    def _command(self) -> list[str]:
        return [self.program, str(self._config)]

    def _answers(self) -> bool:
        names = b"user\x00postgres\x00database\x00postgres\x00\x00"
        return self._exchange(struct.pack("!ii", len(names) + 8, 3 << 16) + names)[:1] == b"R"


class MariadbServer(Server):
    """MariaDB, with a user "test" that may do everything."""

    package = "mariadb-server"
    tls_from_the_start = False

    def __init__(
        self, directory: Path, *, password: str = "test", extra: Sequence[str] = ()
    ) -> None:
        """``extra`` are options; the default ones forget a commit when the host crashes."""
        super().__init__(directory, password=password)
        self.url = self._url("test")
        self.options = [
            "--no-defaults",
            f"--datadir={self.data}",
            *(["--user=root"] if os.geteuid() == 0 else []),
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=2",
            "--character-set-server=utf8mb4",
            *extra,
        ]
        self.init_file = self.directory / "init.sql"  # run at each start
        self.init_file.write_text(
            "CREATE DATABASE IF NOT EXISTS test;\n"
            f"CREATE USER IF NOT EXISTS 'test'@'127.0.0.1' IDENTIFIED BY '{self.password}',"
            f" 'test'@'localhost' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO 'test'@'127.0.0.1', 'test'@'localhost' WITH GRANT OPTION;\n"
        )

    def create_database(self, name: str) -> str:
        """Create a database and return its URL."""
        server = ["-h127.0.0.1", f"-P{self.port}"]
        login = ["--no-defaults", *server, "-utest", f"-p{self.password}"]
        self._run(_find("mariadb", "mysql"), *login, "-e", f"CREATE DATABASE `{name}`")
        return self._url(name)

    def _url(self, database: str) -> str:
        host = "localhost" if self.talks_tls else "127.0.0.1"
        return f"mysql://test:{self.password}@{host}:{self.port}/{database}"

    def _create(self) -> None:
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self._run(_find("mariadb-install-db", "mysql_install_db"), *self.options, *options)

    def _command(self) -> list[str]:
        return [
            self.program,
            *self.options,
            *(self._tls_options() if self.talks_tls else []),
            f"--init-file={self.init_file}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--socket=server.sock",  # in the data directory; a full path could be too long
            "--pid-file=server.pid",
            "--skip-name-resolve",
        ]

    def _answers(self) -> bool:
        return self._exchange(b"")[4:5] == b"\x0a"  # the greeting, protocol version 10

    def _tls_options(self) -> list[str]:
        files = [f"--ssl-{name}={self._pem(name)}" for name in ("ca", "cert", "key")]
        return [*files, "--require-secure-transport=ON"]
