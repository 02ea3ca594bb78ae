# SPDX-License-Identifier: Apache-2.0
"""What every rendering of the chart must have."""

import re
import shutil

import pytest

import chart
from chart import COMPONENTS, NODES, VALUES_FILES, VARIANTS, component_of, matches, refused, render

RENDERINGS = {**{name: (None, file) for name, file in VALUES_FILES.items()},
              **{name: (values, None) for name, values in VARIANTS.items()}}
QUANTITY = {"Mi": 1, "Gi": 1024}


@pytest.fixture(scope="module", params=RENDERINGS)
def objects(request):
    values, file = RENDERINGS[request.param]
    return render(values, file)


def mebibytes(quantity):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * QUANTITY[unit]


def flags_of(container):
    return dict(re.fullmatch(r"--([a-z_]+)=(.*)", argument).groups()
                for argument in container["args"] if "=" in argument)


def test_every_pod_is_what_the_restricted_level_asks_for(objects):
    for name, pod in objects.pods().items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 65532, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]}}, name


def test_every_container_has_requests_limits_and_a_command(objects):
    for name, pod in objects.pods().items():
        for container in pod["spec"]["containers"]:
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert container["command"][0].startswith("allezon-"), name


def test_every_program_has_all_three_probes(objects):
    for name, owner in objects.workloads().items():
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe in container, (name, probe)
        ports = {port["name"] for port in container["ports"]}
        named = [value["port"] for probe in container.values() if isinstance(probe, dict)
                 for value in probe.values() if isinstance(value, dict) and "port" in value]
        assert named and all(isinstance(port, int) or port in ports for port in named), name


def test_liveness_asks_for_nothing_outside_the_process(objects):
    for name, owner in objects.workloads().items():
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        if component_of(owner) == "gateway":
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", name
        else:
            assert container["livenessProbe"]["grpc"] == {"port": 7000, "service": "live"}, name


def test_a_node_that_syncs_for_hours_is_not_ready_and_not_killed(objects):
    for name, owner in objects.workloads().items():
        if component_of(owner) == "gateway":
            continue
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        assert container["startupProbe"]["grpc"] == {"port": 7000, "service": "live"}, name
        assert container["readinessProbe"]["grpc"] == {"port": 7000}, name
        assert {"name": "grpc", "containerPort": 7000} in container["ports"], name


def test_a_workload_selects_its_own_pods_and_nobody_elses(objects):
    workloads = objects.workloads()
    for name, owner in workloads.items():
        selector = owner["spec"]["selector"]["matchLabels"]
        selected = {other for other, item in workloads.items()
                    if matches(selector, item["spec"]["template"]["metadata"]["labels"])}
        assert selected == {name}


def test_no_selector_and_no_claim_holds_what_changes_between_versions(objects):
    for name, owner in objects.workloads().items():
        kept = [owner["spec"]["selector"]["matchLabels"]]
        kept += [claim["metadata"]["labels"] for claim in owner["spec"].get("volumeClaimTemplates", [])]
        for labels in kept:
            assert set(labels) <= {"app.kubernetes.io/name", "app.kubernetes.io/instance",
                                   "app.kubernetes.io/component", "allezon.zone"}, name


def test_every_object_has_the_standard_labels(objects):
    for item in objects.all:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "allezon"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance",
                "app.kubernetes.io/version", "helm.sh/chart"} <= set(labels)


def test_services_lead_to_named_ports_of_pods(objects):
    pods = [owner["spec"]["template"] for owner in objects.workloads().values()]
    for name, service in objects.of("Service").items():
        chosen = [pod for pod in pods
                  if matches(service["spec"]["selector"], pod["metadata"]["labels"])]
        assert chosen, name
        for port in service["spec"]["ports"]:
            for pod in chosen:
                (container,) = pod["spec"]["containers"]
                assert port["targetPort"] in {item["name"] for item in container["ports"]}, name


def test_a_node_has_a_name_before_it_is_ready(objects):
    for owner in objects.of("StatefulSet").values():
        service = objects.of("Service")[owner["spec"]["serviceName"]]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True


def test_volumes_outlive_pods_and_releases(objects):
    for owner in objects.of("StatefulSet").values():
        assert owner["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain", "whenScaled": "Retain"}
        assert owner["spec"]["podManagementPolicy"] == "Parallel"
    (placement,) = objects.of("ConfigMap").values()
    assert placement["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert placement["immutable"] is True


def test_the_instances_are_the_pods(objects):
    (placement,) = objects.of("ConfigMap").values()
    for component in NODES:
        ids = [part.split("=")[0] for part in placement["data"][f"{component}s"].split(",")]
        pods = [f"{name}-{i}" for name, owner in objects.of("StatefulSet").items()
                if component_of(owner) == component for i in range(owner["spec"]["replicas"])]
        assert ids == pods
        for part in placement["data"][f"{component}s"].split(","):
            pod, address = part.split("=")
            headless = next(owner["spec"]["serviceName"] for owner in objects.of("StatefulSet").values()
                            if component_of(owner) == component)
            assert re.fullmatch(rf"{pod}\.{headless}(\.shop\.svc\.cluster\.local)?:7000(/[a-z0-9-]+)?",
                                address)


def test_everything_takes_the_placement_from_one_place(objects):
    (placement,) = objects.of("ConfigMap").values()
    for name, owner in objects.workloads().items():
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        taken = {item["name"]: item["valueFrom"]["configMapKeyRef"]["key"] for item in container["env"]
                 if "configMapKeyRef" in item.get("valueFrom", {})}
        lists = ({"ALLEZON_PROFILES": "profiles", "ALLEZON_AGGREGATES": "aggregates"}
                 if component_of(owner) == "gateway"
                 else {"ALLEZON_INSTANCES": f"{component_of(owner)}s"})
        assert taken == {"ALLEZON_CLUSTER": "cluster", "ALLEZON_SHARDS": "shards", "ALLEZON_RF": "rf",
                         "ALLEZON_WRITE_QUORUM": "write_quorum", **lists}, name
        assert set(taken.values()) <= set(placement["data"])
        assert not {"cluster", "shards", "rf", "write_quorum"} & set(flags_of(container)), name


def test_programs_split_the_limit_of_their_cgroup_themselves(objects):
    for name, owner in objects.workloads().items():
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        assert mebibytes(container["resources"]["limits"]["memory"]) >= 128, name
        assert not [flag for flag in flags_of(container) if "_mib" in flag or flag == "connections_max"], name


def test_a_pod_is_given_the_time_to_end(objects):
    for owner in objects.workloads().values():
        spec = owner["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        if component_of(owner) == "gateway":
            assert spec["terminationGracePeriodSeconds"] * 1000 >= \
                int(flags_of(container)["drain_delay_ms"]) + 40_000
            # The image has no shell, and needs none: the program waits by itself.
            assert "lifecycle" not in container
        else:
            hook = container.get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]
            assert set(hook) == {"sleep"}
            assert spec["terminationGracePeriodSeconds"] >= hook["sleep"]["seconds"] + 20


def test_pods_of_a_service_are_apart_by_preference_only(objects):
    for name, owner in objects.workloads().items():
        affinity = owner["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
        assert set(affinity) == {"preferredDuringSchedulingIgnoredDuringExecution"}, name


def test_budgets_are_of_a_service_over_all_zones():
    for values in (None, VARIANTS["zones"]):
        objects = render(values)
        budgets = objects.of("PodDisruptionBudget")
        assert len(budgets) == 3
        for component in COMPONENTS:
            budget = budgets[f"allezon-{component}"]["spec"]
            assert budget["maxUnavailable"] == 1
            assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
            covered = {name for name, owner in objects.workloads().items()
                       if matches(budget["selector"]["matchLabels"],
                                  owner["spec"]["template"]["metadata"]["labels"])}
            assert covered == {name for name, owner in objects.workloads().items()
                               if component_of(owner) == component}


def test_zones_have_a_set_each_that_stays_in_it():
    objects = render(VARIANTS["zones"])
    sets = {name: owner for name, owner in objects.of("StatefulSet").items()
            if component_of(owner) == "profile"}
    assert {name: owner["spec"]["replicas"] for name, owner in sets.items()} == {
        "allezon-profile-a": 2, "allezon-profile-b": 2, "allezon-profile-c": 1}
    for name, owner in sets.items():
        (term,) = owner["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term["matchExpressions"] == [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [name[-1]]}]
    (placement,) = objects.of("ConfigMap").values()
    assert placement["data"]["profiles"].count("/") == 5


def test_an_autoscaler_owns_the_number_of_gateways():
    objects = render(VARIANTS["autoscaling"])
    assert "replicas" not in objects.of("Deployment")["allezon-gateway"]["spec"]
    scaler = objects.of("HorizontalPodAutoscaler")["allezon-gateway"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "allezon-gateway"
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert render().of("Deployment")["allezon-gateway"]["spec"]["replicas"] == 2


def test_gateways_are_replaced_one_by_one_and_never_fewer():
    update = render().of("Deployment")["allezon-gateway"]["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 0, "maxSurge": 1}


def test_pods_restart_where_the_placement_changes_and_only_then():
    def sums(values):
        return {name: pod["metadata"]["annotations"]["checksum/config"]
                for name, pod in render(values).pods().items() if "-test" not in name}
    before = sums(None)
    assert sums({"gateway": {"replicas": 5}}) == before
    after = sums({"cluster": {"rf": 2}})
    assert set(after) == set(before) and not set(after.values()) & set(before.values())


def test_a_digest_is_used_instead_of_the_tag():
    image = VARIANTS["digest"]["image"]
    for pod in render({"image": {**image, "tag": "1"}}).pods().values():
        assert pod["spec"]["containers"][0]["image"] == f"{image['repository']}@{image['digest']}"
    for pod in render({"image": {"tag": "1"}}).pods().values():
        assert pod["spec"]["containers"][0]["image"] == "localhost/allezon:1"


def test_values_of_pods_reach_all_pods():
    for name, owner in render(VARIANTS["pods"]).workloads().items():
        template = owner["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert template["metadata"]["labels"] | {"l": "v", "team": "x"} == template["metadata"]["labels"]
        assert template["metadata"]["annotations"]["note"] == "v", name
        assert template["spec"]["nodeSelector"] == {"pool": "x"}
        assert template["spec"]["tolerations"] and template["spec"]["topologySpreadConstraints"]
        assert template["spec"]["priorityClassName"] == "high"
        assert set(template["spec"]["affinity"]) == {"nodeAffinity", "podAntiAffinity"}
        # After the chart's own, since the last of two wins.
        assert container["args"][-1] == "--future_max_s=60"
        assert container["env"][-1] == {"name": "A", "value": "b"}


def test_scrape_annotations_give_way_to_a_pod_monitor():
    def scraped(values):
        return ["prometheus.io/scrape" in owner["spec"]["template"]["metadata"]["annotations"]
                for owner in render(values).workloads().values()]
    assert all(scraped(None))
    assert not any(scraped(VARIANTS["monitoring"]))
    assert not any(scraped(VARIANTS["without"]))


def test_alerts_are_about_metrics_of_this_namespace():
    (rule,) = render(VARIANTS["monitoring"]).of("PrometheusRule").values()
    (group,) = rule["spec"]["groups"]
    assert len(group["rules"]) >= 5
    for alert in group["rules"]:
        assert 'namespace="shop"' in alert["expr"]
        for metric in re.findall(r"allezon_[a-z_]+", alert["expr"]):
            name = metric.removesuffix("_bucket")
            found = any(f'"{name}"' in source.read_text(encoding="utf-8")
                        for folder in ("gateway", "router", "replica", "rpc")
                        for source in (chart.ROOT / folder).rglob("*.cc"))
            assert found, f"no program has {name}"


def allows(objects, source, target, port):
    """Whether the policies let pods with these labels talk: both directions, as the network would."""
    policies = [item["spec"] for item in objects.of("NetworkPolicy").values()]

    def direction(labels, other, kind, key, peers):
        rules = [rule for policy in policies if kind in policy["policyTypes"]
                 and matches(policy["podSelector"].get("matchLabels", {}), labels)
                 for rule in policy.get(key, [])]
        chosen = [policy for policy in policies if kind in policy["policyTypes"]
                  and matches(policy["podSelector"].get("matchLabels", {}), labels)]
        if not chosen:
            return True
        return any(
            ("ports" not in rule or port in [item["port"] for item in rule["ports"]]) and
            (peers not in rule or any(
                matches(peer["podSelector"]["matchLabels"], other)
                for peer in rule[peers] if "podSelector" in peer))
            for rule in rules)
    return (direction(source, target, "Egress", "egress", "to") and
            direction(target, source, "Ingress", "ingress", "from"))


def test_policies_allow_each_edge_and_no_other():
    objects = render()
    labels = {component_of(owner): owner["spec"]["template"]["metadata"]["labels"]
              for owner in objects.workloads().values()}
    labels["test"] = objects.of("Pod")["allezon-test"]["metadata"]["labels"]
    stranger = {"app": "stranger"}
    for source, target in (("gateway", "profile"), ("gateway", "aggregate"), ("profile", "profile"),
                           ("aggregate", "aggregate")):
        assert allows(objects, labels[source], labels[target], "grpc"), (source, target)
    assert allows(objects, labels["test"], labels["gateway"], "http")
    assert allows(objects, stranger, labels["gateway"], "http")
    for source, target in (("profile", "aggregate"), ("aggregate", "profile"), ("test", "profile")):
        assert not allows(objects, labels[source], labels[target], "grpc"), (source, target)
    assert not allows(objects, labels["profile"], labels["gateway"], "http")
    assert not allows(objects, stranger, labels["profile"], "grpc")

    closed = render(VARIANTS["closed"])
    assert not allows(closed, stranger, labels["gateway"], "http")
    assert allows(closed, {"app": "nginx"}, labels["gateway"], "http")
    assert allows(closed, labels["test"], labels["gateway"], "http")


def test_notes_print_the_three_calls(tmp_path):
    # helm prints notes only for a cluster: here they are a file of the chart that a template prints.
    folder = tmp_path / "allezon"
    shutil.copytree(chart.CHART, folder)
    (folder / "templates/NOTES.txt").rename(folder / "notes")
    (folder / "templates/notes.yaml").write_text('{{ dict "notes" (tpl (.Files.Get "notes") .) | toYaml }}\n')
    result = chart.subprocess.run(
        (chart.HELM, "template", "allezon", folder, "--namespace=shop", "--show-only=templates/notes.yaml"),
        capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    notes = chart.yaml.safe_load(result.stdout)["notes"]
    assert "port-forward service/allezon-gateway 8080:80" in notes and "WARNING" not in notes
    for path in ("localhost:8080/user_tags", "localhost:8080/user_profiles/", "localhost:8080/aggregates?"):
        assert len(re.findall(rf"^  curl .*{re.escape(path)}", notes, re.MULTILINE)) == 1


def test_a_zero_that_says_nothing_is_not_rendered():
    # helm hands numbers on as text, and the text "0" counts as something.
    (port,) = render().of("Service")["allezon-gateway"]["spec"]["ports"]
    assert "nodePort" not in port
    objects = render({"profile": {"preStopSeconds": 0}})
    (container,) = objects.of("StatefulSet")["allezon-profile"]["spec"]["template"]["spec"]["containers"]
    assert "lifecycle" not in container


def test_a_spread_is_over_the_pods_of_its_component_unless_it_says_otherwise():
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    other = {"matchLabels": {"a": "b"}}
    objects = render({"profile": {"topologySpreadConstraints": [spread, {**spread, "labelSelector": other}]}})
    owner = objects.of("StatefulSet")["allezon-profile"]
    first, second = owner["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert first == {**spread, "labelSelector": {"matchLabels": owner["spec"]["selector"]["matchLabels"]}}
    assert second["labelSelector"] == other


def test_what_cannot_be_run_is_refused_with_a_sentence():
    for values, said in (
            ({"cluster": {"rf": 4}}, "profile.replicas: a replication factor of 4 (cluster.rf) needs as many"),
            ({"aggregate": {"replicas": 2}}, "aggregate.replicas: a replication factor of 3"),
            ({"cluster": {"writeQuorum": 4}}, "cluster.writeQuorum: a write quorum of 4 needs as many"),
            ({"cluster": {"zones": ["a", "b", "c", "d"]}}, "profile.replicas: 3 nodes cannot be in 4 zones"),
            ({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9}}}, "minReplicas is 9"),
            ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.hosts: name at least one"),
            ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute.parentRefs: name the"),
            ({"gateway": {"drainDelaySeconds": 30}}, "would be killed after 60"),
            ({"profile": {"terminationGracePeriodSeconds": 10}}, "profile.terminationGracePeriodSeconds"),
            ({"gateway": {"service": {"externalTrafficPolicy": "Local"}}}, "NodePort or LoadBalancer"),
            ({"profile": {"resources": {"limits": {"memory": "64Mi"}}}}, "64 MiB are too few")):
        assert said in refused(values), values


def check_template(name, context, tmp_path):
    """Renders one named template of the chart with a context of its own, as a chart that is only that."""
    folder = tmp_path / "allezon"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    for file in chart.CHART.glob("templates/_*.tpl"):
        (folder / "templates" / file.name).write_text(file.read_text(encoding="utf-8"))
    (folder / "templates/one.yaml").write_text(f'{{{{ include "{name}" .Values.context }}}}\n')
    chart.yaml.safe_dump({"context": context}, (folder / "values.yaml").open("w"))
    return chart.subprocess.run((chart.HELM, "template", "x", folder), capture_output=True, text=True,
                                check=False, timeout=60)


def test_an_upgrade_that_changes_the_placement_is_refused(tmp_path):
    (placement,) = render().of("ConfigMap").values()
    there = placement["data"]
    same = check_template("allezon.checkPlacement", {"there": there, "wanted": there}, tmp_path / "0")
    assert same.returncode == 0, same.stderr
    assert check_template("allezon.checkPlacement", {"there": {}, "wanted": there},
                          tmp_path / "1").returncode == 0
    for i, (key, where) in enumerate((("rf", "cluster.rf"), ("shards", "cluster.shards"),
                                      ("cluster", "cluster.name"), ("write_quorum", "cluster.writeQuorum"),
                                      ("profiles", "profile.replicas"), ("aggregates", "aggregate.replicas"))):
        result = check_template("allezon.checkPlacement",
                                {"there": there, "wanted": {**there, key: "9"}}, tmp_path / f"2{i}")
        assert result.returncode != 0
        assert where in result.stderr and "cannot change once there is data" in result.stderr


def test_an_upgrade_that_changes_a_claim_is_refused(tmp_path):
    there = render({"profile": {"storage": {"size": "1024Mi", "storageClass": "fast"}}}).of(
        "StatefulSet")["allezon-profile"]
    for i, (wanted, said) in enumerate((
            ({"size": "1Gi", "storageClass": "fast"}, None), ({"size": "1Gi", "storageClass": ""}, None),
            ({"size": "2Gi", "storageClass": "fast"}, "profile.storage.size: the claims were made with 1024Mi"),
            ({"size": "1Gi", "storageClass": "slow"}, "made with 'fast'"))):
        result = check_template("allezon.checkStorage",
                                {"component": "profile", "there": there, "wanted": wanted},
                                tmp_path / str(i))
        assert (result.returncode == 0) == (said is None), result.stderr
        assert said is None or said in result.stderr
