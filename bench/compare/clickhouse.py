# SPDX-License-Identifier: Apache-2.0
"""ClickHouse as Debian has it: 18.16, of 2018."""

import contextlib
import http.client
import subprocess
import urllib.parse

from processes import DIE_WITH_PARENT, BenchError, free_ports, running

CONFIG = "/etc/clickhouse-server/config.xml"
INSERT_TIMEOUT_S = 900
# The filters are few strings each: the type is there to make just that fast, but must be asked for in this version.
SCHEMA = """CREATE TABLE tags (time DateTime, ms UInt16, cookie String, country LowCardinality(String),
  device LowCardinality(String), action LowCardinality(String), origin LowCardinality(String), brand_id LowCardinality(String),
  category_id LowCardinality(String), product_id Int64, price Int32) ENGINE = MergeTree ORDER BY time"""


class ClickHouse:
    def __init__(self, process, port):
        self.process = process
        self.port = port

    def query(self, text, body=None, **settings):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=INSERT_TIMEOUT_S)
        try:
            connection.request("POST", "/?" + urllib.parse.urlencode({"query": text, **settings}), body=body or b"",
                               encode_chunked=body is not None,
                               headers={"Transfer-Encoding": "chunked"} if body is not None else {})
            answer = connection.getresponse()
            content = answer.read().decode()
            if answer.status != 200:
                raise BenchError(f"ClickHouse: {content}")
            return content
        finally:
            connection.close()

    def insert(self, argv):
        """What a program prints as TSV."""
        with subprocess.Popen([*DIE_WITH_PARENT, *map(str, argv)], stdout=subprocess.PIPE) as rows:
            self.query("INSERT INTO tags FORMAT TabSeparated", body=iter(lambda: rows.stdout.read(1 << 20), b""))
            if rows.wait() != 0:
                raise BenchError(f"{argv[0]} ended with {rows.returncode}")


@contextlib.contextmanager
def clickhouse(session):
    """An empty table `tags`, by the package's own settings but for its places and ports."""
    http_port, tcp_port, replicas_port = free_ports(3)
    with session.folder("clickhouse") as folder:
        argv = ["clickhouse-server", f"--config-file={CONFIG}", "--", f"--path={folder}/data/", f"--tmp_path={folder}/tmp/",
                f"--user_files_path={folder}/files/", f"--format_schema_path={folder}/schemas/",
                f"--http_port={http_port}", f"--tcp_port={tcp_port}", f"--interserver_http_port={replicas_port}",
                f"--logger.log={folder}/server.log", f"--logger.errorlog={folder}/error.log", "--timezone=UTC"]
        with running(argv, folder / "log", cwd=folder) as process:
            process.wait_port(http_port)
            server = ClickHouse(process, http_port)
            server.query(SCHEMA, allow_experimental_low_cardinality_type=1)
            yield server
