// SPDX-License-Identifier: Apache-2.0
//
// Tells ThreadSanitizer what a gRPC call orders. The packaged gRPC is built without the sanitizer,
// so that all that was prepared before an operation looks unordered to the callback of its end.
// gRPC++ takes a reference to the call when it fills an operation and returns it just before the
// callback: what went before the first is seen after the second, for operations of one call. Only
// in builds with ALLEZON_SANITIZE=thread; the definitions are found before those of gRPC's shared
// library, which they call.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>

namespace {

template <typename Function>
Function* Real(const char* name) {
  void* const symbol = dlsym(RTLD_NEXT, name);
  if (symbol == nullptr) abort();
  return reinterpret_cast<Function*>(symbol);
}

}  // namespace

extern "C" {

// Between the two on a server's call: the batch that a handler starts after it made its reactor.
grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t count, void* tag,
                                      void* reserved) {
  static auto* const real = Real<grpc_call_error(grpc_call*, const grpc_op*, size_t, void*, void*)>(
      "grpc_call_start_batch");
  __tsan_release(call);
  return real(call, ops, count, tag, reserved);
}

void grpc_call_ref(grpc_call* call) {
  static auto* const real = Real<void(grpc_call*)>("grpc_call_ref");
  __tsan_release(call);
  real(call);
}

void grpc_call_unref(grpc_call* call) {
  static auto* const real = Real<void(grpc_call*)>("grpc_call_unref");
  __tsan_acquire(call);
  real(call);
}

}  // extern "C"
