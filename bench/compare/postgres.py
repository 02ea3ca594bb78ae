# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL 15, synchronous commit, one copy."""

import contextlib
import os
import pwd
import re

import measure
from processes import BenchError, free_ports, run, run_client, running
from session import Case

CONNECTIONS = 64
BIN_DIR = "/usr/lib/postgresql/15/bin"
SETUP_TIMEOUT_S = 60
LOGGED_SHARE = 0.2  # of the transactions, for latencies

SCHEMA = """
CREATE TABLE tags (cookie text, action text, time timestamptz, tag jsonb);
CREATE INDEX ON tags (cookie, action, time);
CREATE TABLE counters (minute timestamptz, action text, origin text, brand text, category text, count bigint, sum bigint,
                       PRIMARY KEY (minute, action, origin, brand, category));
"""

VALUES = r"""
\set cookie random(0, 999999)
\set buy random(1, 5)
\set origin random(0, 999)
\set brand random(0, 249)
\set category random(0, 66)
\set price random(10000, 99999)
"""
ACTION = "CASE WHEN :buy = 1 THEN 'BUY' ELSE 'VIEW' END"
INSERT = f"""INSERT INTO tags VALUES ('cookie_' || :cookie, {ACTION}, now(), jsonb_build_object('country', 'PL', 'device',
  'PC', 'origin', 'origin_' || :origin, 'product_id', 7, 'brand', 'brand_' || :brand, 'category', 'category_' || :category,
  'price', :price::int));
"""


def upsert(origin, brand, category):
    def value(name, used):
        return f"'{name}_' || :{name}" if used else "'*'"

    return (f"INSERT INTO counters VALUES (date_trunc('minute', now()), {ACTION}, {value('origin', origin)}, "
            f"{value('brand', brand)}, {value('category', category)}, 1, :price) ON CONFLICT (minute, action, origin, brand, "
            "category) DO UPDATE SET count = counters.count + 1, sum = counters.sum + excluded.sum;\n")


def transaction():
    """The counters that most tags share come last, so that their locks are held for the shortest time; the order of the
    others is the same everywhere, so that no two transactions wait for each other."""
    combinations = sorted(((o, b, c) for o in (0, 1) for b in (0, 1) for c in (0, 1)), key=sum, reverse=True)
    return VALUES + "BEGIN;\n" + INSERT + "".join(upsert(*used) for used in combinations) + "COMMIT;\n"


@contextlib.contextmanager
def postgres(session):
    """A server on an empty folder; (process, its user, options of its clients)."""
    user = None
    with session.folder("postgres") as folder:
        if os.geteuid() == 0:
            user = "postgres"  # it refuses to run as root
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        folder.chmod(0o700 if user is None else 0o755)
        port, data = free_ports(1)[0], folder / "data"
        run([f"{BIN_DIR}/initdb", "-D", data, "-U", "bench", "-A", "trust", "--locale=C", "-E", "UTF8"],
            timeout_s=SETUP_TIMEOUT_S, user=user, cwd=folder)
        argv = [f"{BIN_DIR}/postgres", "-D", data, "-p", port, "-k", folder, "-c", "listen_addresses=",
                "-c", "synchronous_commit=on"]
        with running(argv, session.data_dir / "postgres.log", user=user, cwd=folder) as server:
            client = ["-h", folder, "-p", port, "-U", "bench"]
            server.wait_until(lambda: (folder / f".s.PGSQL.{port}").exists())
            server.wait_until(lambda: answers(client))
            run([f"{BIN_DIR}/psql", *client, "-v", "ON_ERROR_STOP=1", "-c", SCHEMA, "postgres"], timeout_s=SETUP_TIMEOUT_S)
            yield server, client


def answers(client):
    try:
        run([f"{BIN_DIR}/pg_isready", *client], timeout_s=10)
        return True
    except BenchError:
        return False


def tags(session, script_text):
    with postgres(session) as (server, client), session.folder("pgbench") as folder:
        script = folder / "tag.sql"
        script.write_text(script_text)

        def pgbench(seconds, *options):
            return run_client([f"{BIN_DIR}/pgbench", *client, "-n", "-M", "prepared", "-c", CONNECTIONS, "-j", 1, "-T",
                               seconds, "-f", script, *options, "postgres"], timeout_s=seconds + measure.CLIENT_GRACE_S)

        def measured():
            text, cpu = pgbench(session.seconds, "--log", f"--log-prefix={folder}/log", f"--sampling-rate={LOGGED_SHARE}")
            count = int(re.search(r"number of transactions actually processed: (\d+)", text)[1])
            failed = int(re.search(r"number of failed transactions: (\d+)", text)[1])
            rate = float(re.search(r"tps = ([\d.]+)", text)[1])
            return count, count / rate, failed, latency_ms(folder), cpu

        pgbench(measure.WARM_UP_S)
        return measure.measure(measured, {"postgres": [server.pid]}, "tags")


def latency_ms(folder):
    """Of the transactions that pgbench logged: client, number, microseconds, …"""
    took_ms = sorted(int(line.split()[2]) / 1000 for log in folder.glob("log*") for line in log.read_text().splitlines())
    return {f"p{percent:g}": took_ms[int(len(took_ms) * percent / 100)] for percent in (50, 99)} if took_ms else {}


def cases(section):
    return [Case(section, "PostgreSQL with counters: an INSERT and 8 upserts in one transaction",
                 lambda session: tags(session, transaction())),
            Case(section, "PostgreSQL without counters: the INSERT alone", lambda session: tags(session, VALUES + INSERT))]
