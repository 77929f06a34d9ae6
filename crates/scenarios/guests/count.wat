;; Reads standard input to its end and writes 16 bytes: how many bytes there were, and the sum of their 64-bit words,
;; each rotated by its position; both little-endian. What is missing in the last word counts as zero.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)

  ;; Fills the 64 KiB at 0x10000 as far as the input goes; how much came.
  (func $fill (result i32) (local $filled i32)
    (loop $more
      (i32.store (i32.const 0) (i32.add (i32.const 0x10000) (local.get $filled)))
      (i32.store (i32.const 4) (i32.sub (i32.const 0x10000) (local.get $filled)))
      (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (local.set $filled (i32.add (local.get $filled) (i32.load (i32.const 8))))
      (br_if $more
        (i32.and (i32.ne (i32.load (i32.const 8)) (i32.const 0)) (i32.lt_u (local.get $filled) (i32.const 0x10000)))))
    (local.get $filled))

  (func (export "_start") (local $filled i32) (local $at i32) (local $bytes i64) (local $sum i64) (local $word i64)
    (loop $next
      (local.set $filled (call $fill))
      (memory.fill (i32.add (i32.const 0x10000) (local.get $filled)) (i32.const 0) (i32.const 8))
      (local.set $at (i32.const 0))
      (loop $words
        (if (i32.lt_u (local.get $at) (local.get $filled))
          (then
            (local.set $sum
              (i64.add
                (local.get $sum)
                (i64.rotl (i64.load offset=0x10000 (local.get $at)) (local.get $word))))
            (local.set $word (i64.add (local.get $word) (i64.const 1)))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br $words))))
      (local.set $bytes (i64.add (local.get $bytes) (i64.extend_i32_u (local.get $filled))))
      (br_if $next (i32.eq (local.get $filled) (i32.const 0x10000))))
    (i64.store (i32.const 16) (local.get $bytes))
    (i64.store (i32.const 24) (local.get $sum))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 16))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))))
