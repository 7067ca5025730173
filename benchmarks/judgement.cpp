// What needs no system call: reading a record, judging it, writing one.

#include <chrono>
#include <string>

#include <benchmark/benchmark.h>
#include <unistd.h>

#include "bench.hpp"
#include "verdict/classify.hpp"

namespace sessionlock::bench {
namespace {

Evidence evidence_about(const LockRecord& record, const Observer& observer) {
  Evidence evidence;
  evidence.comparison = compare(record, observer);
  evidence.pid = PidProbe::exists;
  evidence.observed_start_ticks = record.starttime;
  evidence.local_file_system = true;
  evidence.now = std::chrono::time_point_cast<std::chrono::milliseconds>(std::chrono::system_clock::now());
  return evidence;
}

void parse(benchmark::State& state, const std::string& text) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(parse_lock_record(text));
  }
}

/// From the text to the verdict, the evidence given.
void parse_and_classify(benchmark::State& state, const std::string& text) {
  const LockRecord record = parse_lock_record(text);
  Observer observer;
  observer.pid = ::getpid();
  observer.boot_id = record.boot_id.value_or("");
  observer.pid_namespace = record.pid_namespace.value_or(0);
  observer.time_namespace = record.time_namespace.value_or(0);
  const Evidence evidence = evidence_about(record, observer);
  const StalePolicy policy;
  for (auto _ : state) {
    const Inspection inspection = classify(parse_lock_record(text), evidence, policy);
    require(inspection.state == LockState::held && !inspection.removable, "the verdict");
    benchmark::DoNotOptimize(&inspection);
  }
}

void format(benchmark::State& state, const LockRecord& record) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(format_lock_record(record));
  }
}

}  // namespace

void register_judgement() {
  LockRecord own = own_record(::getpid());
  own.label = "nightly";
  const std::string own_text = format_lock_record(own);
  const std::string foreign_text = foreign_record(::getpid());
  const auto add = [](const char* row, auto function, auto argument) {
    benchmark::RegisterBenchmark(row, [=](benchmark::State& state) { function(state, argument); });
  };
  add("parse/foreign", parse, foreign_text);
  add("parse/own", parse, own_text);
  add("classify/foreign", parse_and_classify, foreign_text);
  add("classify/own", parse_and_classify, own_text);
  add("format/foreign", format, parse_lock_record(foreign_text));
  add("format/own", format, own);
}

}  // namespace sessionlock::bench
