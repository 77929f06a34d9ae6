;; An endless loop over filling a memory of 4 MiB.
(module
  (memory 64)
  (func (export "_start")
    (loop $for_ever
      (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const 0x400000))
      (br $for_ever))))
