# SPDX-License-Identifier: Apache-2.0
"""What the machine gives at best: servers without work, syncs, calls."""

import measure
from processes import free_ports, running
from session import Case, tag_arguments

SECTION = "limits"
CONNECTIONS = 64

NGINX_CONF = """
daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ return 204; }}
  }}
}}
"""


def nginx_204(session):
    with session.folder("nginx") as folder:
        port = free_ports(1)[0]
        conf = folder / "nginx.conf"
        conf.write_text(NGINX_CONF.format(folder=folder, port=port))
        with running(["nginx", "-c", conf, "-p", folder, "-e", folder / "error.log"], folder / "log") as nginx:
            nginx.wait_port(port)
            return measure.wrk(f"http://127.0.0.1:{port}", "tags.lua", tag_arguments(), connections=CONNECTIONS,
                               seconds=session.seconds, roles={"server": [nginx.pid]})


def cases():
    return [
        Case(SECTION, "H: cpp-httplib answering 204", lambda session: session.measure_h(CONNECTIONS, session.seconds)),
        Case(SECTION, "nginx answering 204", nginx_204),
    ]
