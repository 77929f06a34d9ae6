;; An endless loop over copying a table of 50,000 elements onto itself, by one.
(module
  (table $table 50000 funcref)
  (func (export "_start")
    (loop $for_ever
      (table.copy $table $table (i32.const 1) (i32.const 0) (i32.const 49999))
      (br $for_ever))))
