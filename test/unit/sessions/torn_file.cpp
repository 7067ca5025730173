#include "sessions/torn_file.hpp"

#include <doctest/doctest.h>

using namespace sessionlock;

namespace {

constexpr uid_t k_owner = 1001;
constexpr uid_t k_self = 1002;
constexpr uid_t k_stranger = 1003;
constexpr gid_t k_group = 50;
constexpr gid_t k_other_group = 60;

constexpr FileRights of_mode(mode_t mode) {
  return {k_owner, k_group, mode, false};
}
constexpr FileRights k_beside{k_self, k_group, 0600, false};
constexpr FileRights k_of_other_group{k_self, k_other_group, 0600, false};

}  // namespace

TEST_CASE("a file of the session's group has the session's permissions, but for executing") {
  for (const mode_t mode : {0600U, 0640U, 0660U, 0664U, 0666U, 0400U}) {
    CHECK(mode_beside(of_mode(mode), k_beside) == mode);
  }
  CHECK(mode_beside(of_mode(04775), k_beside) == 0664);
}

TEST_CASE("a file of another group is open to that group only as far as the session is to all") {
  CHECK(mode_beside(of_mode(0660), k_of_other_group) == 0600);
  CHECK(mode_beside(of_mode(0640), k_of_other_group) == 0600);
  CHECK(mode_beside(of_mode(0644), k_of_other_group) == 0644);
  CHECK(mode_beside(of_mode(0664), k_of_other_group) == 0644);
  CHECK(mode_beside(of_mode(0666), k_of_other_group) == 0666);
}

TEST_CASE("what the session's group may not do, others may not do beside it where the groups differ") {
  CHECK(mode_beside(of_mode(0604), k_of_other_group) == 0600);  // the session's group is among the others there
}

TEST_CASE("beside an access control list a file is its owner's alone") {
  FileRights session = of_mode(0664);
  session.has_acl = true;
  CHECK(mode_beside(session, k_beside) == 0600);
  FileRights file = k_beside;
  file.has_acl = true;
  CHECK(mode_beside(of_mode(0664), file) == 0600);
}

TEST_CASE("a file beside a private session is its owner's, this user's or root's") {
  FileRights file = k_beside;
  CHECK(may_own_beside(of_mode(0600), file, k_self));
  file.owner = 0;
  CHECK(may_own_beside(of_mode(0600), file, k_self));
  file.owner = k_owner;
  CHECK(may_own_beside(of_mode(0600), file, k_self));
  file.owner = k_stranger;
  CHECK_FALSE(may_own_beside(of_mode(0600), file, k_self));
}

TEST_CASE("a stranger's file beside a session is accepted where its group, or all, may read the session") {
  FileRights file{k_stranger, k_group, 0660, false};
  CHECK(may_own_beside(of_mode(0640), file, k_self));
  CHECK(may_own_beside(of_mode(0604), file, k_self));
  FileRights session = of_mode(0660);
  session.has_acl = true;
  CHECK_FALSE(may_own_beside(session, file, k_self));
  file.group = k_other_group;
  CHECK_FALSE(may_own_beside(of_mode(0640), file, k_self));
  CHECK_FALSE(may_own_beside(of_mode(0620), file, k_self));
  CHECK(may_own_beside(of_mode(0644), file, k_self));
}
