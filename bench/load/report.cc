// SPDX-License-Identifier: Apache-2.0
#include "bench/load/report.h"

#include <cstdio>

#include "bench/load/text.h"

namespace allezon::load {
namespace {

constexpr std::pair<const char*, double> kPercentiles[] = {
    {"p50", 50}, {"p90", 90}, {"p99", 99}, {"p99.9", 99.9}};

std::string Number(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", decimals, value);
  return text;
}

std::string Millis(int64_t micros) { return Number(static_cast<double>(micros) / 1000, 2) + " ms"; }

double Share(double value, double of) { return of > 0 ? value / of : 0; }

uint64_t Requests(const Report& report) {
  uint64_t requests = 0;
  for (const KindStats& stats : report.kinds) {
    requests += stats.answered + stats.failed + stats.retries;
  }
  return requests;
}

void AppendReasons(std::string_view title, const std::map<std::string, uint64_t>& reasons,
                   std::string* out) {
  for (const auto& [reason, count] : reasons) {
    out->append("    ").append(title).append(" ").append(reason);
    out->append(": ").append(std::to_string(count)).append("\n");
  }
}

void AppendKind(Kind kind, const KindStats& stats, std::string* out) {
  *out += "  " + std::string(KindName(kind)) + ": " + std::to_string(stats.answered) +
          " answered, " + std::to_string(stats.failed) + " failed";
  if (stats.retries > 0) *out += ", " + std::to_string(stats.retries) + " retries";
  if (stats.late > 0) *out += ", " + std::to_string(stats.late) + " late by the schedule";
  if (stats.abandoned > 0) *out += ", " + std::to_string(stats.abandoned) + " abandoned";
  if (kind != Kind::kTags) {
    *out +=
        "; " + std::to_string(stats.right) + " right, " + std::to_string(stats.wrong) + " wrong";
    if (stats.within_bounds > 0) {
      *out += ", " + std::to_string(stats.within_bounds) + " within bounds of uncertain writes";
    }
    if (stats.expired > 0) *out += ", " + std::to_string(stats.expired) + " expired";
    if (stats.not_asked > 0) *out += ", " + std::to_string(stats.not_asked) + " not yet askable";
  }
  *out += "\n";
  if (stats.latency.count() > 0) {
    *out += "   ";
    for (const auto& [name, percent] : kPercentiles) {
      *out += std::string(" ") + name + " " + Millis(stats.latency.PercentileUs(percent)) + ",";
    }
    *out += " max " + Millis(stats.latency.max_us()) + "\n";
  }
  AppendReasons("failed:", stats.failures, out);
  AppendReasons("retried:", stats.retried_for, out);
}

void AppendSamples(std::string_view title, const std::vector<std::string>& samples,
                   std::string* out) {
  if (samples.empty()) return;
  out->append(title).append(" (the first ").append(std::to_string(samples.size())).append(")\n");
  for (const std::string& sample : samples) out->append("  ").append(sample).append("\n");
}

// A JSON object, written member by member.
class JsonObject {
 public:
  explicit JsonObject(std::string* out) : out_(out) { out_->push_back('{'); }
  ~JsonObject() {
    if (out_->back() == ',') out_->pop_back();
    out_->push_back('}');
  }
  // The value is written by the caller, then End().
  void Name(std::string_view name) {
    AppendJsonString(name, out_);
    out_->push_back(':');
  }
  void End() { out_->push_back(','); }
  void Add(std::string_view name, uint64_t value) { AddRaw(name, std::to_string(value)); }
  void Add(std::string_view name, double value) { AddRaw(name, Number(value, 6)); }
  void AddRaw(std::string_view name, std::string_view value) {
    Name(name);
    out_->append(value);
    End();
  }
  void Add(std::string_view name, const std::vector<std::string>& values) {
    Name(name);
    out_->push_back('[');
    for (const std::string& value : values) {
      AppendJsonString(value, out_);
      out_->push_back(',');
    }
    if (!values.empty()) out_->pop_back();
    out_->push_back(']');
    End();
  }
  void Add(std::string_view name, const std::map<std::string, uint64_t>& values) {
    Name(name);
    {
      JsonObject object(out_);
      for (const auto& [key, value] : values) object.Add(key, value);
    }
    End();
  }

 private:
  std::string* const out_;
};

void AppendKindJson(Kind kind, const KindStats& stats, JsonObject* parent, std::string* out) {
  parent->Name(KindName(kind));
  {
    JsonObject object(out);
    object.Add("answered", stats.answered);
    object.Add("failed", stats.failed);
    object.Add("late", stats.late);
    object.Add("retries", stats.retries);
    object.Add("abandoned", stats.abandoned);
    object.Add("failures", stats.failures);
    object.Add("retried_for", stats.retried_for);
    if (kind != Kind::kTags) {
      object.Add("right", stats.right);
      object.Add("within_bounds", stats.within_bounds);
      object.Add("expired", stats.expired);
      object.Add("wrong", stats.wrong);
      object.Add("not_asked", stats.not_asked);
    }
    object.Name("latency_us");
    {
      JsonObject latency(out);
      for (const auto& [name, percent] : kPercentiles) {
        latency.Add(name, static_cast<uint64_t>(stats.latency.PercentileUs(percent)));
      }
      latency.Add("max", static_cast<uint64_t>(stats.latency.max_us()));
      latency.Add("mean", stats.latency.mean_us());
    }
    object.End();
  }
  parent->End();
}

}  // namespace

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kTags:
      return "tags";
    case Kind::kProfile:
      return "profiles";
    case Kind::kAggregate:
      return "aggregates";
  }
  return "";
}

uint64_t Report::failed() const {
  uint64_t failed = 0;
  for (const KindStats& stats : kinds) failed += stats.failed;
  return failed;
}

uint64_t Report::wrong() const {
  uint64_t wrong = 0;
  for (const KindStats& stats : kinds) wrong += stats.wrong;
  return wrong;
}

std::string ReportText(const Report& report) {
  std::string out = "\nallezon-load";
  for (const auto& [name, value] : report.settings) out += " --" + name + "=" + value;
  out += "\n";
  out += "  " + std::to_string(report.tags_sent) + " tags sent, " +
         std::to_string(report.tags_acknowledged) + " acknowledged, " +
         std::to_string(report.tags_uncertain) + " uncertain";
  if (report.tags_not_sent > 0) {
    out += ", " + std::to_string(report.tags_not_sent) + " of the schedule not sent";
  }
  out += "; " + Number(Share(static_cast<double>(report.tags_sent), report.stream_s), 0) +
         " tags/s for " + Number(report.stream_s, 1) + " s\n";
  for (const Kind kind : {Kind::kTags, Kind::kProfile, Kind::kAggregate}) {
    AppendKind(kind, report.of(kind), &out);
  }
  out += "  connections: " + std::to_string(report.connections_opened) + " opened, " +
         std::to_string(report.connections_refused) + " refused, " +
         std::to_string(report.connections_closed_idle) +
         " closed by the server between requests\n";
  const auto requests = static_cast<double>(Requests(report));
  out += "  this process: " + Number(report.cpu_s, 2) + " s of CPU in " + Number(report.wall_s, 1) +
         " s, " + Number(Share(report.cpu_s * 1e6, requests), 1) + " us a request\n";
  AppendSamples("failures", report.failure_samples, &out);
  AppendSamples("wrong answers", report.wrong_samples, &out);
  if (report.interrupted) out += "ended early by a signal\n";
  out += report.failed() + report.wrong() == 0
             ? "OK: no request failed, no answer was wrong\n"
             : "FAILED: " + std::to_string(report.failed()) + " requests failed, " +
                   std::to_string(report.wrong()) + " answers were wrong\n";
  return out;
}

std::string ReportJson(const Report& report) {
  std::string out;
  {
    JsonObject top(&out);
    top.Name("settings");
    {
      JsonObject settings(&out);
      for (const auto& [name, value] : report.settings) {
        settings.Name(name);
        AppendJsonString(value, &out);
        settings.End();
      }
    }
    top.End();
    top.Add("tags_sent", report.tags_sent);
    top.Add("tags_acknowledged", report.tags_acknowledged);
    top.Add("tags_uncertain", report.tags_uncertain);
    top.Add("tags_not_sent", report.tags_not_sent);
    top.Add("failed", report.failed());
    top.Add("wrong", report.wrong());
    top.AddRaw("interrupted", report.interrupted ? "true" : "false");
    top.Add("stream_s", report.stream_s);
    top.Add("wall_s", report.wall_s);
    top.Add("cpu_s", report.cpu_s);
    top.Add("tags_per_s", Share(static_cast<double>(report.tags_sent), report.stream_s));
    top.Add("cpu_us_per_request", Share(report.cpu_s * 1e6, static_cast<double>(Requests(report))));
    for (const Kind kind : {Kind::kTags, Kind::kProfile, Kind::kAggregate}) {
      AppendKindJson(kind, report.of(kind), &top, &out);
    }
    top.Add("connections_opened", report.connections_opened);
    top.Add("connections_refused", report.connections_refused);
    top.Add("connections_closed_idle", report.connections_closed_idle);
    top.Add("failure_samples", report.failure_samples);
    top.Add("wrong_samples", report.wrong_samples);
  }
  out.push_back('\n');
  return out;
}

}  // namespace allezon::load
