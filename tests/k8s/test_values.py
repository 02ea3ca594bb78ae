# SPDX-License-Identifier: Apache-2.0
"""The schema of the chart's values."""

import json

import pytest
import yaml

from chart import CHART, refused

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def described(schema, values, path=""):
    """The paths of values, each of which must have a description."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        properties = schema.get("properties", {})
        assert key in properties or schema.get("additionalProperties", True) is not False, here
        if key not in properties:
            continue
        assert len(properties[key].get("description", "")) >= 5, f"{here} has no description"
        yield here
        if isinstance(value, dict):
            yield from described(properties[key], value, here)


def test_each_value_has_a_description():
    assert len(list(described(SCHEMA, DEFAULTS))) > 100


def test_each_value_of_the_schema_has_a_default():
    def missing(schema, values, path):
        for key, item in schema.get("properties", {}).items():
            here = f"{path}.{key}"
            if key not in values:
                yield here
            elif isinstance(values[key], dict):
                yield from missing(item, values[key], here)
    optional = {".global", *(f".{c}.resources.{k}.ephemeral-storage" for k in ("requests", "limits")
                             for c in ("gateway", "profile", "aggregate"))}
    assert set(missing(SCHEMA, DEFAULTS, "")) <= optional


def test_no_object_of_the_schema_takes_what_it_does_not_know():
    def loose(schema, path):
        if "properties" in schema and schema.get("additionalProperties", True) is not False:
            yield path
        for key, item in schema.get("properties", {}).items():
            yield from loose(item, f"{path}.{key}")
    assert not list(loose(SCHEMA, ""))


@pytest.mark.parametrize(("values", "field"), [
    ({"gatway": {}}, "gatway"),
    ({"gateway": {"replica": 3}}, "replica"),
    ({"gateway": {"replicas": "three"}}, "replicas"),
    ({"gateway": {"replicas": 0}}, "replicas"),
    ({"cluster": {"shards": 0}}, "shards"),
    ({"cluster": {"shards": 5000}}, "shards"),
    ({"cluster": {"rf": 2.5}}, "rf"),
    ({"cluster": {"name": "a b"}}, "name"),
    ({"cluster": {"zones": ["a", "a"]}}, "zones"),
    ({"cluster": {"zones": ["A_"]}}, "zones"),
    ({"image": {"digest": "sha256:12"}}, "digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"profile": {"storage": {"size": "ten"}}}, "size"),
    ({"profile": {"resources": {"limits": {"memory": None}}}}, "memory"),
    ({"aggregate": {"resources": {"limits": {"memory": "1 GB"}}}}, "memory"),
    ({"profile": {"extraArgs": ["wal=async"]}}, "extraArgs"),
    ({"listenHost": "localhost"}, "listenHost"),
    ({"logLevel": "loud"}, "logLevel"),
    ({"gateway": {"service": {"port": 70000}}}, "port"),
    ({"monitoring": {"podMonitor": {"interval": "often"}}}, "interval"),
])
def test_a_bad_value_is_refused_by_name(values, field):
    assert field in refused(values)
