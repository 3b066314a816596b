/* SPDX-License-Identifier: Apache-2.0 */
/* needs_library: end with 7; it was linked with a library that is looked for beside the program. */
int main(void)
{
	return 7;
}
