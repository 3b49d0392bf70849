// Memory for the engine: an aligned allocation with one owner, and how a C function reports that there is none left.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

namespace charlm {

// An aligned block of memory that is freed with its owner. Allocation throws std::bad_alloc. A default-constructed
// buffer owns nothing and converts to false.
class Buffer {
 public:
  Buffer() = default;
  static Buffer zeros(size_t bytes) {
    Buffer buffer(bytes);
    memset(buffer.data_, 0, bytes);
    return buffer;
  }
  static Buffer uninitialized(size_t bytes) { return Buffer(bytes); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_) ::operator delete(data_, kAlignment);
  }

  explicit operator bool() const { return data_ != nullptr; }

  // The element number `index` if the buffer is seen as an array of T.
  template <class T = char>
  T* data(size_t index = 0) const {
    return reinterpret_cast<T*>(data_) + index;
  }

 private:
  // The size of a cache line, so that vectors of packed weights never straddle two lines.
  static constexpr std::align_val_t kAlignment{64};

  explicit Buffer(size_t bytes) : data_(static_cast<char*>(::operator new(bytes, kAlignment))) {}

  char* data_ = nullptr;
};

// Runs `work` and returns 0, or 1 if it ran out of memory. Every C function that allocates goes through this, because
// no exception may leave a C function.
template <class Work>
int allocation_status(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace charlm
