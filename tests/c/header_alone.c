/* The header needs nothing before it and may come twice. */
#include "focal_loss.h"
#include "focal_loss.h"

int main(void) { return focal_loss_version_string()[0] == '\0'; }
