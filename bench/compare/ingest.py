# SPDX-License-Identifier: Apache-2.0
"""Tags a second, by how they come in, on how many replicas they are, and how durable they are."""

import measure
from clusters import cluster
from session import Case, tag_arguments

SECTION = "ingest"
CONNECTIONS = 64


def one_tag(session, *, rf, connections=CONNECTIONS, wal="sync"):
    """One tag an HTTP request, as fast as answers come."""
    with cluster(session.data_dir, rf=rf, wal=wal) as running:
        url = f"http://{running.http}"
        warm = measure.wrk(url, "tags.lua", tag_arguments(), connections=connections, seconds=measure.WARM_UP_S,
                           roles={}, warm_up_s=0)
        result = measure.wrk(url, "tags.lua", tag_arguments(), connections=connections, seconds=session.seconds,
                             roles=running.roles(), unit="tags", warm_up_s=0)
        # What was in flight when a client ended may be stored.
        running.check_events(warm.count + result.count, warm.failed + result.failed + 2 * connections)
        return result


def cases():
    return [Case(SECTION, f"one tag a request, RF {rf}, {CONNECTIONS} connections",
                 lambda session, rf=rf: one_tag(session, rf=rf), target=target)
            for rf, target in ((1, 0.40), (2, 0.30), (3, 0.24))]
