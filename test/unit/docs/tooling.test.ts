// SPDX-License-Identifier: Apache-2.0
/** The hosted workflow and the editor's configurations run what is there. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { ROOT } from './markdown.ts'

const read = (path: string) => readFileSync(join(ROOT, path), 'utf8')

describe('.github/workflows/ci.yml', () => {
  interface Step {
    readonly run?: string
    readonly uses?: string
    readonly with?: Readonly<Record<string, string>>
  }
  const { jobs } = parse(read('.github/workflows/ci.yml')) as { jobs: { ci: { steps: readonly Step[] } } }
  const { steps } = jobs.ci

  test('does what .ci/run does, by running it', () => {
    expect(steps.map(({ run }) => run)).toContain('.ci/run')
  })

  test('caches by the content of what is there', () => {
    const key = steps.find(({ uses }) => uses?.startsWith('actions/cache/restore'))?.with?.key ?? ''
    const paths = [...key.matchAll(/'([^']+)'/g)].map(([, pattern = '']) => pattern.replace(/\/\*+$/, ''))
    expect(paths.length).toBeGreaterThan(2)
    expect(paths.filter(path => !existsSync(join(ROOT, path)))).toEqual([])
  })

  test('runs npm scripts that there are', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    for (const { run } of steps) {
      for (const [, name = ''] of run?.matchAll(/npm run ([\w:-]+)/g) ?? [])
        expect(Object.keys(scripts)).toContain(name)
    }
  })
})

describe('.vscode/launch.json', () => {
  const { configurations } = JSON.parse(read('.vscode/launch.json')) as {
    configurations: readonly { name: string; program?: string; args?: readonly string[] }[]
  }

  const help = execFileSync(process.execPath, [join(ROOT, 'server/cli/main.ts'), '--help'], { encoding: 'utf8' })

  test.each(configurations)('$name', ({ program, args = [] }) => {
    if (program === undefined) return
    // After the workspace's folder.
    const path = program.slice(program.indexOf('/') + 1)
    expect(existsSync(join(ROOT, path)), path).toBe(true)
    if (path !== 'server/cli/main.ts') return
    expect(help).toMatch(new RegExp(`^  ${args[0]} `, 'm'))
  })
})
