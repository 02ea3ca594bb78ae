# SPDX-License-Identifier: Apache-2.0
"""What a user would pick instead, each from Debian's packages with its documented settings, beside what it replaces.

Redis and RF 2 keep as many copies as each other, PostgreSQL and RF 1 too; all sync before they answer. Redis' WAIT asks
that the replica has taken a tag, not that its disk has it; RF 2 asks for both disks."""

import ingest
import postgres
import redis
from session import Case

SECTION = "rivals"
OURS_TWO = "allezon over HTTP, RF 2, for Redis"
OURS_ONE = "allezon over HTTP, RF 1, for PostgreSQL"


def cases():
    theirs = [*redis.cases(SECTION), *postgres.cases(SECTION)]
    redis_raw, redis_http, postgres_whole, postgres_insert = (case.name for case in theirs)
    return [
        Case(SECTION, OURS_TWO, lambda session: ingest.one_tag(session, rf=2), against={redis_raw: 1.5, redis_http: 3}),
        Case(SECTION, OURS_ONE, lambda session: ingest.one_tag(session, rf=1),
             against={postgres_whole: 5, postgres_insert: None}),
        *theirs,
    ]
