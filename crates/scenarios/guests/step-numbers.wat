;; Numbers that live in vector registers, stepped through: floats and SIMD, in loops that keep them there.
(module
  (import "step" "begin" (func $begin))
  (import "step" "end" (func $end (result i32)))
  (memory (export "memory") 1)

  ;; The sum of 1/(k·k) for k = 1 … 30.
  (func $basel (result f64) (local $k f64) (local $all f64)
    (local.set $k (f64.const 1))
    (loop $more
      (local.set $all
        (f64.add (local.get $all) (f64.div (f64.const 1) (f64.mul (local.get $k) (local.get $k)))))
      (local.set $k (f64.add (local.get $k) (f64.const 1)))
      (br_if $more (f64.le (local.get $k) (f64.const 30))))
    (local.get $all))

  ;; Four sums at once, and eight vectors alive at a time.
  (func $lanes (result i32) (local $n i32) (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $a (v128.const i32x4 1 2 3 4))
    (local.set $b (v128.const i32x4 5 6 7 8))
    (local.set $c (v128.const i32x4 9 10 11 12))
    (loop $more
      (local.set $d (i32x4.add (local.get $d) (i32x4.mul (local.get $a) (local.get $b))))
      (local.set $d (i32x4.sub (local.get $d) (local.get $c)))
      (local.set $a (i32x4.add (local.get $a) (i32x4.splat (local.get $n))))
      (local.set $b (i8x16.swizzle (local.get $b) (v128.const i8x16 4 5 6 7 8 9 10 11 12 13 14 15 0 1 2 3)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 12))))
    (i32.add
      (i32.add (i32x4.extract_lane 0 (local.get $d)) (i32x4.extract_lane 1 (local.get $d)))
      (i32.add (i32x4.extract_lane 2 (local.get $d)) (i32x4.extract_lane 3 (local.get $d)))))

  ;; Both once without a step, so that there is something to compare with.
  (func (export "_start") (local $sum i64) (local $lanes i32)
    (local.set $sum (i64.reinterpret_f64 (call $basel)))
    (local.set $lanes (call $lanes))
    (call $begin)
    (if (i64.ne (i64.reinterpret_f64 (call $basel)) (local.get $sum)) (then (unreachable)))
    (call $begin)
    (if (i32.ne (call $lanes) (local.get $lanes)) (then (unreachable)))
    (call $begin)
    (if (call $end) (then (loop $for_ever (br $for_ever))))))
