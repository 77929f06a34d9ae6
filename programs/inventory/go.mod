module inventory

go 1.27
