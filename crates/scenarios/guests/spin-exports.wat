;; An endless loop with what a program usually has: exports, a memory, a global, calls, loads and stores.
(module
  (memory (export "memory") 1)
  (global $turns (export "turns") (mut i64) (i64.const 0))
  (func $turn (export "turn") (param $at i32) (result i32)
    (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (i32.const 1)))
    (global.set $turns (i64.add (global.get $turns) (i64.const 1)))
    (i32.and (i32.add (local.get $at) (i32.const 4)) (i32.const 0xfffc)))
  (func (export "_start") (local $at i32)
    (loop $for_ever
      (local.set $at (call $turn (local.get $at)))
      (br $for_ever))))
