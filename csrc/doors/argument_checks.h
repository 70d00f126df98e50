// What the checks of arguments share, for calls from Python, TensorFlow and XLA alike. The caller
// passes the shapes of contiguous arrays of the right types; whatever does not fit raises
// std::invalid_argument, which names the argument, what it is and what is allowed.

#ifndef FASTKERAS_DOORS_ARGUMENT_CHECKS_H_
#define FASTKERAS_DOORS_ARGUMENT_CHECKS_H_

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastkeras {

using Shape = std::vector<int64_t>;

template <typename T>
struct Argument {
  const T* data;
  Shape shape;
};

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline std::string Text(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

inline void ExpectShape(const char* name, const Shape& shape, const Shape& expected) {
  if (shape != expected) {
    Refuse(name, " must have shape ", Text(expected), ", got ", Text(shape));
  }
}

}  // namespace fastkeras

#endif  // FASTKERAS_DOORS_ARGUMENT_CHECKS_H_
