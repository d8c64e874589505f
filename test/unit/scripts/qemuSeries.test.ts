// SPDX-License-Identifier: Apache-2.0
/** The series for the versions of QEMU are what they say, and do not drift apart. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { chooseSource, NoSourceError } from '../../../scripts/setup/qemu.ts'
import { PATCH_DIR, readRecipe } from '../../../scripts/setup/qemuBuild.ts'

const patchFiles = (folder: string) =>
  readdirSync(join(PATCH_DIR, folder)).filter(name => /^\d{4}-.*\.patch$/.test(name))

const common = await readRecipe('10.0.13')
const newer = await readRecipe('10.2.2')
const byNumber = ({ patches }: typeof common) => patches.map(({ name }) => name.replace(/^10\.2\//, '').slice(0, 4))

test('each series has all patches in their order, and no file is left over', () => {
  expect(byNumber(newer)).toEqual(byNumber(common))
  expect(common.patches.map(({ name }) => name)).toEqual(patchFiles('.').filter(name => !name.startsWith('0000')))
  expect(newer.patches.flatMap(({ name }) => (name.startsWith('10.2/') ? [name.slice(5)] : []))).toEqual(
    patchFiles('10.2'),
  )
})

test('a patch that both versions can have is there once', () => {
  const bare = (text: string) => text.replace(/^index [0-9a-f].*$/gm, '').replace(/^@@ .*$/gm, '@@')
  const texts = new Map(common.patches.map(({ name, text }) => [name.slice(0, 4), bare(text)]))
  for (const { name, text } of newer.patches.filter(patch => patch.name.startsWith('10.2/')))
    expect(bare(text), name).not.toBe(texts.get(name.slice(5, 9)))
})

/** What patches add to QEMU, a line for each, without what 0024 does to the board, which is another thing in each. */
const added = ({ patches }: typeof common): string[] =>
  patches.flatMap(({ name, text }) =>
    /(^|\/)0024/.test(name)
      ? []
      : text.split('\n').flatMap(line => (/^\+(?!\+\+)\s*\S/.test(line) ? [line.slice(1)] : [])),
  )

/** Lines of `a` that `b` does not have, or not as often. */
function without(a: readonly string[], b: readonly string[]): string[] {
  const left = [...b]
  return a.filter(line => {
    const at = left.indexOf(line)
    if (at >= 0) left.splice(at, 1)
    return at < 0
  })
}

/** Headers that moved, types and functions that changed, and how wide a line of QAPI documentation may be. */
const ONLY_10_0 = `
qemu_socket_set_nonblock(fd);
qemu_socket_set_nonblock(fd);
static void cosim_class_init(ObjectClass *oc, void *data)
.interfaces = (InterfaceInfo[]) {
#include "exec/address-spaces.h"
#include "exec/memory.h"
* vCPUs stop when they want the BQL, which a kick makes them want.
qemu_cpu_kick(cpu);
#     milliseconds.  vCPUs that need it stand still meanwhile.  With 0,
#     QEMU ends when the server is lost (default: 0)
# Since: 10.0
#include "exec/ramblock.h"
uint64_t data[TARGET_INSN_START_WORDS];
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
bool dirty = cpu_physical_memory_test_and_clear_dirty(w->ram, COSIM_PAGE,
DIRTY_MEMORY_VGA);
cpu_physical_memory_test_and_clear_dirty(ram, COSIM_PAGE,
DIRTY_MEMORY_VGA);
if (cpu_physical_memory_get_dirty_flag(w->ram, DIRTY_MEMORY_VGA)) {
# @ring: whether the server at a Unix socket may have messages travel in
#     memory that it shares with QEMU (default: true)
# @token-secret: ID of a secret object that holds a token of at least 16
#     bytes (the end of its line is left out).  A server is only taken
#     when it proves that it knows it (default: any server is taken)
qemu_cpu_kick(cpu);
`
/** There a kicked vCPU does not leave the guest, and an SMMU can be a device. */
const ONLY_10_2 = `
base += vms->memmap[VIRT_PLATFORM_BUS].base;
irq += vms->irqmap[VIRT_PLATFORM_BUS];
smmuv3_cosim_describe(ARM_SMMUV3(dev), base, irq);
qemu_set_blocking(fd, false, &error_abort);
qemu_set_blocking(fd, false, &error_abort);
static void cosim_class_init(ObjectClass *oc, const void *data)
.interfaces = (const InterfaceInfo[]) {
#include "system/address-spaces.h"
#include "system/memory.h"
* vCPUs stop when they want the BQL, which leaving the guest makes them want.
cpu_exit(cpu);
#     milliseconds.  vCPUs that need it stand still meanwhile.  With
#     0, QEMU ends when the server is lost (default: 0)
# Since: 10.2
#include "system/ramblock.h"
#include "exec/target_page.h"
uint64_t data[INSN_START_WORDS];
#include "system/ramblock.h"
#include "exec/cpu-common.h"
#include "system/physmem.h"
bool dirty = physical_memory_test_and_clear_dirty(w->ram, COSIM_PAGE,
DIRTY_MEMORY_VGA);
physical_memory_test_and_clear_dirty(ram, COSIM_PAGE, DIRTY_MEMORY_VGA);
if (physical_memory_get_dirty_flag(w->ram, DIRTY_MEMORY_VGA)) {
# @ring: whether the server at a Unix socket may have messages travel
#     in memory that it shares with QEMU (default: true)
# @token-secret: ID of a secret object that holds a token of at least
#     16 bytes (the end of its line is left out).  A server is only
#     taken when it proves that it knows it (default: any server is
#     taken)
cpu_exit(cpu);
`

test.each([
  ['10.0', common, newer, ONLY_10_0],
  ['10.2', newer, common, ONLY_10_2],
])('whoever changes one series has to change the other one: what only %s has', (_, one, other, wanted) => {
  expect(without(added(one), added(other)).map(line => line.trim())).toEqual(wanted.trim().split('\n'))
})

describe('the source of a version', () => {
  const sid = ['1:10.2.2+ds-1', '1:10.2.10+ds-1', '1:11.1.2+ds-3', '1:10.0.9+ds-1']

  test('is the newest that the archive has', () => {
    expect(chooseSource('10.2', 'sid', sid)).toBe('1:10.2.10+ds-1')
    expect(chooseSource('10.0', 'trixie', ['1:10.0.13+ds-0+deb13u1'])).toBe('1:10.0.13+ds-0+deb13u1')
  })

  test('that the archive has no longer is said, with what it has, and what one can do', () => {
    const gone = () => chooseSource('10.2', 'sid', sid.slice(2))
    expect(gone).toThrow(NoSourceError)
    expect(gone).toThrow(
      /Debian's sid has no source of QEMU 10\.2 any more, but 1:11\.1\.2\+ds-3, 1:10\.0\.9\+ds-1; --qemu-source/,
    )
  })
})
