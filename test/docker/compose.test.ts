// SPDX-License-Identifier: Apache-2.0
/**
 * The compose file: that it means what it says, and where there is a Docker engine, that it runs. Images that were never
 * built take too long to be built by the way: that is done when SMMU_COSIM_DOCKER is set. Images of former sources
 * are brought up to date, if that takes no longer than UPDATE_MS.
 */
import { type ExecFileException, execFile, execFileSync } from 'node:child_process'
import { appendFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { hostPackages } from '../../scripts/setup/packages.ts'
import { privateFolder } from '../../server/machine/scratch.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FILE = join(ROOT, 'docker/compose.yaml')
const FILES = ['package.json', 'package-lock.json', 'tsconfig.json', 'LICENSE']
const BUILD_MS = 3_600_000
const UPDATE_MS = 180_000

function answers(...args: string[]): boolean {
  try {
    execFileSync('docker', args, { stdio: 'ignore', timeout: 20_000 })
    return true
  } catch {
    return false
  }
}

interface Service {
  readonly user: string
  readonly read_only?: boolean
  readonly cap_add?: string[]
  readonly cap_drop?: string[]
  readonly privileged?: boolean
  readonly security_opt?: string[]
  readonly mem_limit?: string
  readonly pids_limit?: number
  readonly ports?: { readonly host_ip?: string; readonly published: string }[]
  readonly volumes?: {
    readonly type: string
    readonly source: string
    readonly target: string
    readonly read_only?: boolean
  }[]
}

function config(profile: string, env: NodeJS.ProcessEnv = {}): Record<string, Service> {
  const args = ['compose', '-f', FILE, '--profile', profile, 'config', '--format', 'json']
  const text = execFileSync('docker', args, { encoding: 'utf8', env: { ...process.env, ...env } })
  return (JSON.parse(text) as { services: Record<string, Service> }).services
}

const compose = answers('compose', 'version')
const engine = compose && answers('info')

describe.skipIf(!compose)(`the compose file${compose ? '' : ' (skipped: there is no docker compose)'}`, () => {
  test.each([
    ['dev', ['qemu', 'server']],
    ['ci', ['ci', 'qemu']],
    ['faults', ['faults', 'qemu']],
  ])('profile %s', (profile, names) => {
    const services = config(profile)
    expect(Object.keys(services).sort()).toEqual(names)
    for (const [name, service] of Object.entries(services)) {
      expect(service, name).toMatchObject({ user: '1000:1000', read_only: true, cap_drop: ['ALL'] })
      expect(service.cap_add, name).toBeUndefined()
      expect(service.privileged, name).toBeUndefined()
      expect(service.security_opt, name).toEqual(['no-new-privileges:true'])
      expect(service.mem_limit, name).toBeDefined()
      expect(service.pids_limit, name).toBeGreaterThan(0)
      for (const port of service.ports ?? []) expect(port.host_ip, name).toBe('127.0.0.1')
      for (const volume of service.volumes ?? []) {
        expect(volume.source, name).not.toContain('docker.sock')
        if (volume.target.startsWith('/app/') && volume.type === 'bind') expect(volume.read_only, name).toBe(true)
      }
    }
  })

  test('dev is what is started when no profile is named', () => {
    const { COMPOSE_PROFILES: _, ...env } = process.env
    const services = execFileSync('docker', ['compose', '-f', FILE, 'config', '--services'], { encoding: 'utf8', env })
    expect(services.trim().split('\n').sort()).toEqual(['qemu', 'server'])
  })

  test('the user, the port and the folder of runs are the caller’s choice', () => {
    const { server, qemu } = config('dev', {
      COSIM_UID: '1234',
      COSIM_GID: '99',
      COSIM_PORT: '9000',
      COSIM_RUNS: '/tmp/x',
    })
    expect(server?.user).toBe('1234:99')
    expect(qemu?.ports?.[0]?.published).toBe('9000')
    expect(server?.volumes?.find(({ target }) => target === '/state')?.source).toBe('/tmp/x')
  })
})

test('the image has the system packages that set-up asks for', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  const trixie = 'ID=debian\nVERSION_ID="13"\n'
  for (const name of hostPackages(trixie)) expect(dockerfile.split(/\s+/)).toContain(name)
})

/** Modules that a module imports when it is loaded, and those that they import. */
function loaded(file: string, known = new Set<string>()): Set<string> {
  if (known.has(file)) return known
  known.add(file)
  const text = readFileSync(file, 'utf8')
  for (const [, from = ''] of text.matchAll(/^(?:import|export) (?!type )(?:[^'"]*? from )?'(\.[^']+)'/gm))
    loaded(join(dirname(file), from), known)
  return known
}

test('the image of the server has all that the command line loads', () => {
  const [, server = ''] = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8').split(/^FROM base AS server$/m)
  const copied = [...server.matchAll(/^COPY (?!-)(.+) \S+$/gm)].flatMap(([, from = '']) => from.split(' '))
  const ignored = readFileSync(join(ROOT, 'docker/Dockerfile.dockerignore'), 'utf8').split('\n')
  for (const part of copied.filter(part => !part.startsWith('docker/'))) expect(ignored).toContain(`!${part}`)
  const files = [...loaded(join(ROOT, 'server/cli/main.ts'))].map(file => relative(ROOT, file))
  expect(files.length).toBeGreaterThan(100)
  expect(files.filter(file => !copied.some(part => file.startsWith(`${part}/`)))).toEqual([])
})

test('no stage names a platform or an image but the base', () => {
  const dockerfile = readFileSync(join(ROOT, 'docker/Dockerfile'), 'utf8')
  const stages = [...dockerfile.matchAll(/^FROM (\S+)(?: AS (\S+))?$/gm)]
  const names = new Set(stages.map(([, , name]) => name))
  for (const [, from] of stages) expect(from === `\${BASE}` || names.has(from), from).toBe(true)
  expect(dockerfile).not.toMatch(/--platform|amd64\b(?!,)|x86_64|aarch64-linux/)
})

const wanted = process.env.SMMU_COSIM_DOCKER !== undefined
const images = engine && answers('image', 'inspect', 'smmu-cosim/qemu', 'smmu-cosim/server')
const why = !engine
  ? ' (skipped: no Docker engine answers)'
  : wanted || images
    ? ''
    : ' (skipped: the images were never built; with SMMU_COSIM_DOCKER=1 they are)'

describe.skipIf(!engine || !(wanted || images))(`containers${why}`, () => {
  const project = `cosim-test-${process.pid}`
  let runs: string
  /** A tree of its own, so that files can be edited. */
  let tree: string
  let env: NodeJS.ProcessEnv
  let tooSlow = false

  const runUntil = async (
    signal: AbortSignal | undefined,
    ...args: string[]
  ): Promise<{ code: number; output: string }> => {
    const all = ['compose', '-p', project, '-f', join(tree, 'docker/compose.yaml'), ...args]
    try {
      const { stdout, stderr } = await promisify(execFile)('docker', all, { env, maxBuffer: 1 << 26, signal })
      return { code: 0, output: stdout + stderr }
    } catch (error) {
      const { code, stdout, stderr } = error as ExecFileException & { stdout: string; stderr: string }
      return { code: Number(code ?? -1), output: stdout + stderr }
    }
  }
  const run = (...args: string[]) => runUntil(undefined, ...args)

  beforeAll(async () => {
    const folder = privateFolder(tmpdir(), 'docker-')
    runs = join(folder, 'runs')
    mkdirSync(runs)
    tree = join(folder, 'tree')
    for (const part of [
      'docker',
      'server',
      'protocol',
      'scripts',
      'qemu-patches',
      'test/bench',
      'test/fuzz',
      ...FILES,
    ]) {
      cpSync(join(ROOT, part), join(tree, part), { recursive: true, preserveTimestamps: true })
    }
    env = {
      ...process.env,
      COSIM_RUNS: runs,
      COSIM_PORT: '0',
      COSIM_UID: String(process.getuid?.() || 1000),
      COSIM_GID: String(process.getgid?.() || 1000),
    }
    if (process.getuid?.() === 0) execFileSync('chown', ['1000:1000', runs])
    const limit = AbortSignal.timeout(wanted ? BUILD_MS : UPDATE_MS)
    const built = await runUntil(limit, '--profile', 'dev', '--profile', 'ci', 'build')
    tooSlow = limit.aborted && !wanted
    if (!tooSlow) expect(built.code, built.output.slice(-4000)).toBe(0)
  }, BUILD_MS)

  beforeEach(({ skip }) =>
    skip(
      tooSlow,
      `the images are not up to date after ${UPDATE_MS / 1000} s; with SMMU_COSIM_DOCKER=1 it may take longer`,
    ),
  )

  afterAll(async () => {
    await run('--profile', '*', 'down', '--volumes', '--timeout', '5')
    rmSync(join(runs, '..'), { recursive: true, force: true })
    const left = execFileSync('docker', ['ps', '-aq', '--filter', `label=com.docker.compose.project=${project}`])
    expect(left.toString()).toBe('')
    const volumes = execFileSync('docker', [
      'volume',
      'ls',
      '-q',
      '--filter',
      `label=com.docker.compose.project=${project}`,
    ])
    expect(volumes.toString()).toBe('')
  }, 120_000)

  test('ci: boots, works, and ends with the outcome', async () => {
    const { code, output } = await run(
      '--profile',
      'ci',
      'run',
      '--rm',
      'ci',
      'boot',
      '--quiet',
      '--timeout=600',
      '--qemu=/usr/local/bin/qemu-remote',
      '--ram-dir=/dev/shm',
      '--report=/state/ci.json',
    )
    expect(code, output.slice(-4000)).toBe(0)
    expect(JSON.parse(readFileSync(join(runs, 'ci.json'), 'utf8'))).toMatchObject({ outcome: 'ok', policy: 'pkvm' })
  }, 900_000)

  test('dev: a source file is saved, and the same guest is answered by the new code', async () => {
    const up = await run('--profile', 'dev', 'up', '--detach', '--wait', '--wait-timeout', '600')
    expect(up.code, up.output.slice(-4000)).toBe(0)
    const logs = async () => (await run('--profile', 'dev', 'logs', '--no-log-prefix', 'server')).output
    const { output: address } = await run('--profile', 'dev', 'port', 'qemu', '8642')
    expect(address.trim()).toMatch(/^127\.0\.0\.1:\d+$/)
    expect((await fetch(`http://${address.trim()}/health`)).ok).toBe(true)
    expect((await fetch(`http://${address.trim()}/api/v1/machine`)).status).toBe(401)
    const token = /#token=(\S+)/.exec(await logs())?.[1]
    const headers = { authorization: `Bearer ${token}` }
    const api = async (path: string, body?: object) => {
      const method = body === undefined ? 'GET' : 'POST'
      const type = body === undefined ? {} : { 'content-type': 'application/json' }
      const init = { method, headers: { ...headers, ...type }, ...(body && { body: JSON.stringify(body) }) }
      const answer = await fetch(`http://${address.trim()}/api/v1/${path}`, init)
      return answer.status === 204 ? {} : ((await answer.json()) as { phase?: string; text?: string })
    }
    const phase = async () => (await api('machine')).phase
    const seen = async () => (await api('machine/console')).text
    await expect.poll(phase, { timeout: 300_000, interval: 1_000 }).toBe('userspace')

    // Code that keeps from Linux that its commands were consumed: Linux complains. The old code again: it goes on.
    const file = join(tree, 'server/hypervisor/pkvm/hostCmdq.ts')
    const source = readFileSync(file, 'utf8')
    const stuck = source
      .replace('posts && this.#predictsCons && left === 0 ? cons : null', 'null')
      .replace(
        /readCons\(\): number \{/,
        '$& if (this.registers.prod >= 0) return Math.max(0, this.registers.cons - 1)',
      )
    expect(stuck).toContain('submit(null)')
    expect(stuck).toContain('registers.cons - 1)')
    const replaced = async () => (await logs()).split('hostCmdq.ts: new code in place').length - 1
    writeFileSync(file, stuck)
    await expect.poll(replaced, { timeout: 60_000, interval: 500 }).toBe(1)
    await api('machine/console', { text: 'dd if=/dev/vda of=/dev/null bs=65536 count=4 iflag=direct\n' })
    await expect.poll(seen, { timeout: 60_000, interval: 500 }).toContain('CMD_SYNC timeout')
    writeFileSync(file, source)
    await expect.poll(replaced, { timeout: 60_000, interval: 500 }).toBe(2)
    await api('machine/console', { text: 'echo goes-on-$((6 * 7))\n' })
    await expect.poll(seen, { timeout: 60_000, interval: 500 }).toContain('goes-on-42')

    appendFileSync(file, "export const wrong: number = 'seven'\n")
    await expect
      .poll(logs, { timeout: 120_000, interval: 500 })
      .toMatch(/type error: server\/hypervisor\/pkvm\/hostCmdq\.ts/)
    appendFileSync(file, 'export const = nothing\n')
    await expect.poll(logs, { timeout: 60_000, interval: 500 }).toContain('the old code goes on')
    expect(await phase()).toBe('userspace')
  }, 1_200_000)
})
