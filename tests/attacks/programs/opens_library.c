/* SPDX-License-Identifier: Apache-2.0 */
/* opens_library [FILE]: dlopen(3) it when given; end with 7, or with 1 when it could not be opened. */
#include <dlfcn.h>

int main(int argc, char **argv)
{
	if (argc > 1 && !dlopen(argv[1], RTLD_NOW))
		return 1;
	return 7;
}
