#include "protocol/permissions.hpp"

#include <optional>

#include <doctest/doctest.h>
#include <sys/stat.h>

using namespace sessionlock;

namespace {

constexpr gid_t k_group = 3000;

LockPermissions by_rule(mode_t session, bool has_acl = false) {
  return decide_lock_permissions(SessionPermissions{S_IFREG | session, k_group}, has_acl, std::nullopt);
}

}  // namespace

TEST_CASE("a lock can be read by those who may write its session, and by nobody else") {
  CHECK(decide_lock_permissions(std::nullopt, false, std::nullopt).mode == 0600);
  CHECK(by_rule(0600).mode == 0600);
  CHECK(by_rule(0644).mode == 0600);
  CHECK(by_rule(0660).mode == 0640);
  CHECK(by_rule(0620).mode == 0640);
  CHECK(by_rule(0606).mode == 0604);
  CHECK(by_rule(0666).mode == 0644);
  CHECK(by_rule(02660).mode == 0640);
}

TEST_CASE("the bits of a group mean nothing where the session has an access control list") {
  CHECK(by_rule(0660, true).mode == 0600);
  CHECK(by_rule(0666, true).mode == 0604);
}

TEST_CASE("a lock that a group may read is to have the session's group") {
  CHECK(by_rule(0660).group == k_group);
  CHECK(!by_rule(0606).group);
  CHECK(!by_rule(0600).group);
}

TEST_CASE("what is no regular file lets nobody read its lock") {
  for (const int type : {S_IFIFO, S_IFSOCK, S_IFCHR}) {
    const mode_t mode = static_cast<mode_t>(type) | 0666U;
    CHECK(decide_lock_permissions(SessionPermissions{mode, k_group}, false, std::nullopt).mode == 0600);
  }
}

TEST_CASE("a mode that is asked for takes the place of the rule") {
  const SessionPermissions session{S_IFREG | 0666, k_group};
  CHECK(decide_lock_permissions(session, false, 0600).mode == 0600);
  CHECK(decide_lock_permissions(session, true, 0640).mode == 0640);
  CHECK(decide_lock_permissions(session, false, 0640).group == k_group);
  CHECK(decide_lock_permissions(std::nullopt, false, 0644).mode == 0644);
  CHECK(decide_lock_permissions(session, false, 0644).by_hand);
}

TEST_CASE("no session and no mode makes a lock that anybody but its owner may write, or that its owner may not") {
  for (mode_t bits = 0; bits <= 0777; ++bits) {
    for (const bool has_acl : {false, true}) {
      REQUIRE((by_rule(bits, has_acl).mode & ~044U) == 0600);
    }
    const auto by_hand = decide_lock_permissions(SessionPermissions{S_IFREG | 0600, k_group}, false, bits);
    REQUIRE((by_hand.mode & ~044U) == 0600);
  }
}
