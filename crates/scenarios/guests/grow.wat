;; Grows its memory page by page and writes to each, until it gets no more; then writes how many pages it has, as
;; four little-endian bytes.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $page i32)
    (loop $next
      (if (i32.ne (local.tee $page (memory.grow (i32.const 1))) (i32.const -1))
        (then
          (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 0xa5) (i32.const 0x10000))
          (br $next))))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 4))
    (i32.store (i32.const 16) (memory.size))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))))
