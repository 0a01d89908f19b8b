-- wrk waits so many ms before each request: the other programs want to run too.
function delay()
	return 20
end

-- What is never answered wrk does not count as an error: it tells the time of an answer
-- when it has come. So it says when the last one came. These run in wrk's thread, ...
function init()
	began = os.time()
end

function response()
	last = os.time() - began
end

-- ... and these where its report is made.
function setup(it)
	thread = it
end

function done()
	print(string.format("last answer after %d s", thread:get("last") or 0))
end
