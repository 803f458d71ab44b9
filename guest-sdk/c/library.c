// The library of a plugin in C: what its bindings and the compiler call, without a host below it.
//
// Memory is handed out front to back, and only the last block is taken back: a node gives a plugin a fresh instance for
// every call, so that all of it is gone a moment later anyway.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
  PAGE_BYTES = 65536,
  // The strictest type has this much. A block's size stands in as many bytes before it.
  ALIGNMENT = 16,
};

// Where the linker ends what is there from the start.
extern unsigned char __heap_base;
// Of the block that was handed out last; 0 before the first one.
static uintptr_t last, end;

static size_t *size_of(uintptr_t block) { return (size_t *)(block - ALIGNMENT); }

// Makes `size` bytes from `block` on the last block, and asks for more pages where there are too few.
static void *place(uintptr_t block, size_t size) {
  if (size > UINTPTR_MAX - block - PAGE_BYTES) abort();
  uintptr_t there = __builtin_wasm_memory_size(0) * PAGE_BYTES;
  if (block + size > there) {
    size_t pages = (block + size - there + PAGE_BYTES - 1) / PAGE_BYTES;
    if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) abort();
  }
  *size_of(block) = size;
  last = block;
  end = block + size;
  return (void *)block;
}

void *malloc(size_t size) {
  uintptr_t from = last ? end : (uintptr_t)&__heap_base;
  uintptr_t block = (from + ALIGNMENT + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return place(block, size);
}

void *calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) abort();
  return memset(malloc(bytes), 0, bytes);
}

void *realloc(void *block, size_t size) {
  if (!block) return malloc(size);
  if ((uintptr_t)block == last) return place(last, size);
  size_t old = *size_of((uintptr_t)block);
  return memcpy(malloc(size), block, old < size ? old : size);
}

// Bindings also free what was never allocated, such as the text of a literal.
void free(void *block) {
  if (block && (uintptr_t)block == last) end = last - ALIGNMENT;
}

void abort(void) { __builtin_trap(); }

// The instructions of WebAssembly that copy and fill.
void *memcpy(void *restrict to, const void *restrict from, size_t size) { return __builtin_memcpy(to, from, size); }

void *memmove(void *to, const void *from, size_t size) { return __builtin_memmove(to, from, size); }

void *memset(void *to, int byte, size_t size) { return __builtin_memset(to, byte, size); }

int memcmp(const void *a, const void *b, size_t size) {
  const unsigned char *left = a, *right = b;
  for (size_t i = 0; i < size; i++) {
    if (left[i] != right[i]) return left[i] < right[i] ? -1 : 1;
  }
  return 0;
}

size_t strlen(const char *text) {
  size_t size = 0;
  while (text[size]) size++;
  return size;
}
