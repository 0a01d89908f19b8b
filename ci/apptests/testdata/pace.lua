-- wrk waits so many ms before each request: the other programs want to run too.
function delay()
	return 20
end
