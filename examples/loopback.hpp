#pragma once

// What the examples need of sockets: a port of the loopback interface, and one question to whoever listens there.

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace loopback {

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {
    if (fd < 0) {
      throw std::system_error(errno, std::generic_category(), "socket");
    }
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

inline sockaddr_in address_of(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// Listens on a port, or on any that is free for 0. None if somebody else listens there.
inline std::optional<Socket> listen(std::uint16_t port) {
  Socket socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const int yes = 1;
  ::setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);  // connections that have ended do not count
  const sockaddr_in address = address_of(port);
  if (::bind(socket.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.fd(), 16) != 0) {
    return std::nullopt;
  }
  return socket;
}

inline std::uint16_t port_of(const Socket& socket) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

inline std::string read_line(const Socket& socket) {
  std::string line;
  for (char c = 0; ::read(socket.fd(), &c, 1) == 1 && c != '\n';) {
    line += c;
  }
  return line;
}

inline void write_line(const Socket& socket, std::string line) {
  line += '\n';
  static_cast<void>(!::send(socket.fd(), line.data(), line.size(), MSG_NOSIGNAL));
}

// What the listener answers to a line; empty if nobody does.
inline std::string ask(std::uint16_t port, const std::string& line) {
  const Socket socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const sockaddr_in address = address_of(port);
  if (::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return {};
  }
  write_line(socket, line);
  return read_line(socket);
}

}  // namespace loopback
