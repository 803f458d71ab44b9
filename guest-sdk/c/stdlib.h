// What a plugin has of the header of this name. There is no more: a plugin has no files, no clock and no environment.
#ifndef MKS_STDLIB_H
#define MKS_STDLIB_H

#include <stddef.h>

// Memory, aligned for every type. Never NULL: where there is no more the plugin stops, and the node keeps all versions.
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *block, size_t size);
void free(void *block);

// Stops the plugin: a failure, which never decides.
_Noreturn void abort(void);

#endif
