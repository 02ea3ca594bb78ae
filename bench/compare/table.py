# SPDX-License-Identifier: Apache-2.0
"""What a session measured, as Markdown for people and JSON for programs."""

import dataclasses
import json
import math
import os
import pathlib
import platform
import statistics
import time


def new_path(folder):
    """Of the Markdown; the JSON lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.md"


def write(session, options, path):
    path.write_text(markdown(session, options))
    content = {"options": options, "machine": machine(), "results": records(session.results)}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def records(results):
    return [{"section": r.case.section, "case": r.case.name, "round": r.round, "h": r.h, "error": r.error,
             "rate": r.measurement.rate if r.measurement else None,
             **(dataclasses.asdict(r.measurement) if r.measurement else {})} for r in results]


def markdown(session, options):
    results = session.results
    lines = [f"# allezon, measured on {time.strftime('%Y-%m-%d %H:%M')}", "", machine(), "",
             f"`./dev bench {options}`. Figures are medians over the rounds, H is of the same connections just before and "
             "after; `±` is half the range of the ratio over the rounds, `†` marks figures of runs in which something "
             "failed. CPU is in microseconds a unit, user + system; others: what none of the processes that belong to a "
             "case took.", ""]
    if session.quick:
        lines += ["**Quick: little data and short runs. It shows that everything works; the figures mean nothing.**", ""]
    for section in dict.fromkeys(result.case.section for result in results):
        lines += [f"## {section}", "", *section_table([r for r in results if r.case.section == section], results), ""]
    return "\n".join(lines)


def machine():
    model = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Linux {platform.release()}."


def section_table(results, everything):
    header = ["case", "a second", "H", "ratio", "target", "p50 ms", "p99 ms", "CPU", "busy (others)", "other"]
    rows = [row(case, [r for r in results if r.case.name == case], everything)
            for case in dict.fromkeys(r.case.name for r in results)]
    # Columns that nobody has anything for are left out.
    used = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    table = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells[i] for i in used) + " |" for cells in table] + exponents(results)


def exponents(results):
    """With which power of the size the figures of a group grow: 0 is not at all, 1 is in proportion."""
    lines = []
    for group in dict.fromkeys(r.case.group for r in results if r.case.group):
        done = [r for r in results if r.case.group == group and r.measurement]
        if len({r.case.size for r in done}) < 2:
            continue
        names = dict.fromkeys(name for r in done for name in grown(r))
        powers = [f"{name} {power:+.2f}" for name in names
                  if (power := exponent([(r.case.size, grown(r)[name]) for r in done if name in grown(r)])) is not None]
        lines += ["", f"Exponents by {group}: {', '.join(powers)}."]
    return lines


def grown(result):
    m = result.measurement
    latency_ms = {"p99": m.latency_ms["p99"]} if "p99" in m.latency_ms else {}
    return {f"{m.unit} a second" + (" in H" if result.h else ""): result.score, **latency_ms, **m.figures}


def exponent(points):
    """The slope of the line through the logarithms, by least squares; None where there is none."""
    points = [(math.log(size), math.log(value)) for size, value in points if value > 0]
    if len({x for x, _ in points}) < 2:
        return None
    mean_x, mean_y = (statistics.fmean(point[i] for point in points) for i in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def row(name, results, everything):
    case = results[0].case
    done = [r for r in results if r.measurement]
    if not done:
        return [name, "FAILED", "", "", "", "", "", "", "", results[-1].error.splitlines()[-1]]
    ms = [r.measurement for r in done]
    ratios = [r.ratio for r in done if r.h]
    failed = sum(m.failed for m in ms)
    mark = "†" if failed or len(done) < len(results) else ""
    other = [f"{number(median([m.figures[key] for m in ms if key in m.figures]))} {key}" for key in ms[0].figures]
    other += dict.fromkeys(note for m in ms for note in m.notes)
    if mark:
        other.append(f"{failed} failed, and {len(results) - len(done)} runs of {len(results)}")
    h, ratio, busy = "", "", ""
    if ratios:
        h = f"{median([r.h for r in done]):,.0f}"
        ratio = f"{median(ratios):.3g} ± {(max(ratios) - min(ratios)) / 2:.2g}"
    if ms[0].cpu_us:
        busy = f"{median([m.busy for m in ms]):.0%} ({median([m.others for m in ms]):.0%})"
    return [name, f"{median([m.rate for m in ms]):,.0f} {ms[0].unit}{mark}", h, ratio, verdict(case, done, everything),
            latency(ms, "p50"), latency(ms, "p99"), cpu(ms), busy, "; ".join(other)]


def verdict(case, done, everything):
    parts = []
    if case.target is not None:
        parts.append(judged(median([r.ratio for r in done]), case.target, "H"))
    if case.target_rate is not None:
        parts.append(judged(median([r.measurement.rate for r in done]), case.target_rate, "a second"))
    for name, wanted in case.target_ms.items():
        value = median([r.measurement.latency_ms[name] for r in done])
        parts.append(f"{name} ≤ {wanted:g} ms: {'met' if value <= wanted else 'MISSED'}")
    for name, times in case.against.items():
        rounds = {r.round: r for r in everything if r.case.name == name and r.measurement}
        ratios = [r.score / rounds[r.round].score for r in done if r.round in rounds]
        if ratios:
            compared = f"{median(ratios):.3g} times {name.partition(':')[0]}"
            parts.append(compared if times is None else f"{compared}, {judged(median(ratios), times, 'times')}")
    return "; ".join(parts)


def judged(value, wanted, unit):
    return f"≥ {wanted:g} {unit}: {'met' if value >= wanted else 'MISSED'}"


def latency(ms, name):
    values = [m.latency_ms[name] for m in ms if name in m.latency_ms]
    return f"{median(values):.2f}" if values else ""


def cpu(ms):
    parts = []
    for role in ms[0].cpu_us:
        user, system = (median([m.cpu_us[role][i] for m in ms if role in m.cpu_us]) for i in (0, 1))
        parts.append(f"{role} {user:.1f}+{system:.1f}")
    return ", ".join(parts)


def median(values):
    return statistics.median(values)


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
