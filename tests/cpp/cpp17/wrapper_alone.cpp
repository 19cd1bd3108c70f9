// The header needs nothing before it and may come twice.
#include "focal_loss.hpp"
#include "focal_loss.hpp"

int main() { return focal_loss::version()[0] == '\0'; }
