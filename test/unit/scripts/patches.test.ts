// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { applyPatches, firstRejection, type Patch, parseSeries, touchedFiles } from '../../../scripts/setup/patches.ts'

const changeA: Patch = {
  name: '0001-change-a.patch',
  text: `\
Change a

diff --git a/a.c b/a.c
--- a/a.c
+++ b/a.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
`,
}
const addB: Patch = {
  name: '0002-add-b.patch',
  text: `\
diff --git a/dir/b.c b/dir/b.c
new file mode 100644
--- /dev/null
+++ b/dir/b.c
@@ -0,0 +1 @@
+new
`,
}
const doesNotApply: Patch = { name: '0003-broken.patch', text: changeA.text.replace(' one', ' uno') }

test('a series file has a patch a line, and comments', () => {
  expect(parseSeries('# ours\n0001-a.patch\n\n  0002-b.patch # second\n')).toEqual(['0001-a.patch', '0002-b.patch'])
})

test('touched files are those created, changed, renamed and deleted', () => {
  const rename = { name: 'r', text: 'diff --git a/old.c b/new.c\nrename from old.c\nrename to new.c\n' }
  expect(touchedFiles([changeA, addB, rename])).toEqual(['a.c', 'dir/b.c', 'new.c', 'old.c'])
})

test('a file that is no git patch is refused by name', () => {
  expect(() => touchedFiles([{ name: 'x.patch', text: '--- a\n+++ b\n' }])).toThrow('x.patch')
})

test('the first hunk that failed is named', () => {
  const output = 'patching file a.c\npatching file dir/b.c\nHunk #2 FAILED at 17.\n1 out of 3 hunks FAILED\n'
  expect(firstRejection(output)).toBe('dir/b.c, hunk 2 at line 17')
  expect(firstRejection('patching file a.c\nHunk #1 succeeded at 12 (offset 3 lines).\n')).toBeUndefined()
})

describe('applying patches to a tree', () => {
  let dir: string
  let paths: Parameters<typeof applyPatches>[0]
  const inTree = (file: string) => readFileSync(join(paths.tree, file), 'utf8')

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'smmu-cosim-patches-'))
    paths = { pristine: join(dir, 'pristine'), tree: join(dir, 'tree'), scratch: '', patchDir: join(dir, 'patches') }
    for (const sub of ['pristine', 'tree', 'patches']) mkdirSync(join(dir, sub))
    for (const sub of ['pristine', 'tree']) writeFileSync(join(dir, sub, 'a.c'), 'one\ntwo\nthree\n')
    for (const { name, text } of [changeA, addB, doesNotApply]) writeFileSync(join(paths.patchDir, name), text)
  })
  afterEach(() => rmSync(dir, { recursive: true }))

  let runs = 0
  async function apply(...patches: Patch[]): Promise<void> {
    const scratch = join(dir, `scratch-${runs++}`)
    await applyPatches({ ...paths, scratch }, patches, ['a.c', 'dir/b.c'], undefined)
  }

  test('patches go on, and come off again', async () => {
    await apply(changeA, addB)
    expect(inTree('a.c')).toBe('one\nTWO\nthree\n')
    expect(inTree('dir/b.c')).toBe('new\n')
    await apply()
    expect(inTree('a.c')).toBe('one\ntwo\nthree\n')
    expect(() => inTree('dir/b.c')).toThrow('ENOENT')
  })

  test('a file that stays the same keeps its time, so that it is not compiled again', async () => {
    await apply(changeA)
    utimesSync(join(paths.tree, 'a.c'), 1000, 1000)
    await apply(changeA, addB)
    expect(statSync(join(paths.tree, 'a.c')).mtimeMs).toBe(1_000_000)
  })

  test('a patch that does not apply is named with its hunk, and leaves the tree alone', async () => {
    await expect(apply(addB, doesNotApply)).rejects.toThrow(/0003-broken\.patch does not apply: a\.c, hunk 1 at line 1/)
    expect(inTree('a.c')).toBe('one\ntwo\nthree\n')
    expect(() => inTree('dir/b.c')).toThrow('ENOENT')
  })
})
