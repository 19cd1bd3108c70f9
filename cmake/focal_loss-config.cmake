# find_package(focal_loss) gives focal_loss::focal_loss, to link with, and focal_loss::static, the same in an archive.
# This file is PREFIX/share/cmake/focal_loss/focal_loss-config.cmake; a PREFIX that was moved as a whole works where it is.
get_filename_component(_focal_loss_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

set(_focal_loss_shared "${CMAKE_SHARED_LIBRARY_PREFIX}focal_loss${CMAKE_SHARED_LIBRARY_SUFFIX}")
set(_focal_loss_archive "${CMAKE_STATIC_LIBRARY_PREFIX}focal_loss${CMAKE_STATIC_LIBRARY_SUFFIX}")
foreach(_focal_loss_folder IN ITEMS "lib/${CMAKE_LIBRARY_ARCHITECTURE}" lib64 lib)
    set(_focal_loss_folder "${_focal_loss_prefix}/${_focal_loss_folder}")
    if(NOT TARGET focal_loss::focal_loss AND EXISTS "${_focal_loss_folder}/${_focal_loss_shared}")
        add_library(focal_loss::focal_loss SHARED IMPORTED)
        set_target_properties(focal_loss::focal_loss PROPERTIES
            IMPORTED_LOCATION "${_focal_loss_folder}/${_focal_loss_shared}"
            INTERFACE_INCLUDE_DIRECTORIES "${_focal_loss_prefix}/include")
    endif()
    if(NOT TARGET focal_loss::static AND EXISTS "${_focal_loss_folder}/${_focal_loss_archive}")
        # What Rust's standard library needs of the system's.
        set(THREADS_PREFER_PTHREAD_FLAG TRUE)
        find_package(Threads REQUIRED)
        add_library(focal_loss::static STATIC IMPORTED)
        set_target_properties(focal_loss::static PROPERTIES
            IMPORTED_LOCATION "${_focal_loss_folder}/${_focal_loss_archive}"
            INTERFACE_INCLUDE_DIRECTORIES "${_focal_loss_prefix}/include"
            INTERFACE_LINK_LIBRARIES "Threads::Threads;m;${CMAKE_DL_LIBS}")
    endif()
endforeach()

if(NOT TARGET focal_loss::focal_loss)
    set(focal_loss_FOUND FALSE)
    set(focal_loss_NOT_FOUND_MESSAGE "there is no ${_focal_loss_shared} in lib, lib64 or lib/ARCHITECTURE of ${_focal_loss_prefix}")
endif()

unset(_focal_loss_prefix)
unset(_focal_loss_shared)
unset(_focal_loss_archive)
unset(_focal_loss_folder)
