# The version is that of the header. Every later version serves what was built for an earlier one (docs/abi.md), as long
# as the first number stays the same.
get_filename_component(_focal_loss_header "${CMAKE_CURRENT_LIST_DIR}/../../../include/focal_loss.h" ABSOLUTE)
set(PACKAGE_VERSION "")
if(EXISTS "${_focal_loss_header}")
    file(STRINGS "${_focal_loss_header}" _focal_loss_line REGEX "^#define FOCAL_LOSS_VERSION \"")
    string(REGEX REPLACE ".*\"(.*)\".*" "\\1" PACKAGE_VERSION "${_focal_loss_line}")
    unset(_focal_loss_line)
endif()
unset(_focal_loss_header)

string(REGEX MATCH "^[0-9]+" _focal_loss_major "${PACKAGE_VERSION}")
set(PACKAGE_VERSION_COMPATIBLE FALSE)
set(PACKAGE_VERSION_EXACT FALSE)
if(NOT PACKAGE_VERSION STREQUAL "" AND PACKAGE_FIND_VERSION VERSION_LESS_EQUAL PACKAGE_VERSION
        AND (PACKAGE_FIND_VERSION STREQUAL "" OR PACKAGE_FIND_VERSION_MAJOR EQUAL _focal_loss_major))
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
    if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
        set(PACKAGE_VERSION_EXACT TRUE)
    endif()
endif()
unset(_focal_loss_major)
# The library has 64-bit addresses.
if(NOT CMAKE_SIZEOF_VOID_P STREQUAL "" AND NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
    set(PACKAGE_VERSION_UNSUITABLE TRUE)
endif()
