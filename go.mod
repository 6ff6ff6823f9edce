module github.com/gatehouse-ws/gatehouse

go 1.26.0
