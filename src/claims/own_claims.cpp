#include "claims/own_claims.hpp"

#include <algorithm>
#include <vector>

#include "system/mutex.hpp"
#include "system/per_process.hpp"

namespace sessionlock {
namespace {

struct Claims {
  Mutex mutex;
  std::vector<FileIdentity> files GUARDED_BY(mutex);
};
PerProcess<Claims> g_claims;

}  // namespace

OwnClaim::OwnClaim(const FileIdentity& file) : file_(file) {
  Claims& claims = g_claims.get();
  const MutexLock lock(claims.mutex);
  claims.files.push_back(file);
}

OwnClaim::~OwnClaim() {
  Claims* const claims = g_claims.find();
  if (claims == nullptr) {
    return;  // a child of the process that claimed
  }
  const MutexLock lock(claims->mutex);
  if (const auto found = std::find(claims->files.begin(), claims->files.end(), file_); found != claims->files.end()) {
    claims->files.erase(found);
  }
}

bool is_own_claim(const FileIdentity& file) {
  Claims& claims = g_claims.get();
  const MutexLock lock(claims.mutex);
  return std::find(claims.files.begin(), claims.files.end(), file) != claims.files.end();
}

}  // namespace sessionlock
