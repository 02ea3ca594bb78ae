# SPDX-License-Identifier: Apache-2.0
"""nginx before the gateways of a local cluster: gateway/nginx/*.conf as they are, and around them
what is particular to one folder. An ordinary process: no root, nothing outside of its folder, and a
single one, so that its pid and its command line are those of the entry."""

from __future__ import annotations

import os
import pathlib
import resource
import shutil
from typing import Sequence

from settings import ClusterError

CONFIGURATION = pathlib.Path(__file__).resolve().parents[1] / "gateway" / "nginx"
CONNECTIONS_MAX = 4096

# All paths are relative to the folder, which -p names.
MAIN = """\
# Written by ./dev run --nginx.
daemon off;
# One process is all of it: it ends with whoever kills it, and keeps its command line.
master_process off;
pid nginx.pid;
lock_file nginx.lock;
error_log stderr warn;
events {{
  worker_connections {connections};
}}
http {{
  access_log off;
  client_body_temp_path temp/body;
  proxy_temp_path temp/proxy;
  fastcgi_temp_path temp/fastcgi;
  uwsgi_temp_path temp/uwsgi;
  scgi_temp_path temp/scgi;
  include allezon.conf;
  include allezon-grpc.conf;
}}
"""


def program() -> str:
    """Debian has it where the PATH of users does not lead."""
    path = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if path is None:
        raise ClusterError("nginx is not installed: it is Debian's package nginx")
    return path


def argv(folder: pathlib.Path) -> list[str]:
    """The command for the configuration that write() has put into `folder`."""
    return [program(), "-e", "stderr", "-p", f"{folder}/", "-c", f"{folder}/nginx.conf"]


def gateway_servers(addresses: Sequence[str]) -> str:
    """allezon/gateways.conf. Each stands twice: where all have failed of late, all are asked all the same."""
    return "".join([f"server {address} max_fails=1 fail_timeout=1s;\n" for address in addresses]
                   + [f"server {address} max_fails=0 backup;\n" for address in addresses])


def write(folder: pathlib.Path, *, http: str, grpc_profile: str, grpc_aggregate: str, gateways: Sequence[str],
          profiles: Sequence[str], aggregates: Sequence[str]) -> None:
    """Writes the whole configuration into `folder`; every argument is a host:port, or several."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, soft)
    parts = folder / "allezon"
    for made in (parts, folder / "temp"):
        made.mkdir(parents=True, exist_ok=True)
    (folder / "nginx.conf").write_text(MAIN.format(connections=connections))
    for name in ("allezon.conf", "allezon-grpc.conf"):
        shutil.copyfile(CONFIGURATION / name, folder / name)
    (parts / "listen.conf").write_text(f"listen {http} backlog=1024;\n")
    (parts / "trusted.conf").write_text("# No balancer is before this one.\n")
    (parts / "gateways.conf").write_text(gateway_servers(gateways))
    (parts / "grpc-profile.conf").write_text(f"listen {grpc_profile} http2;\n")
    (parts / "grpc-aggregate.conf").write_text(f"listen {grpc_aggregate} http2;\n")
    for name, addresses in (("profiles", profiles), ("aggregates", aggregates)):
        (parts / f"{name}.conf").write_text(
            "".join(f"server {address} max_fails=1 fail_timeout=1s;\n" for address in addresses))
