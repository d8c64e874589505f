#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0

/**
 * The one entry point of every npm script. Plain JavaScript, so that whatever Node is installed (20 or newer) can run
 * it; everything behind it runs on the Node 26 that package-lock.json pins.
 *
 *   bootstrap.mjs WORD…                  the smmu-cosim command line
 *   bootstrap.mjs --exec PROGRAM ARG…    a program of node_modules/.bin
 *   bootstrap.mjs --setup …              the same, after QEMU, kernel and initramfs have been made ready
 */

import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  constants as fs,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { constants, homedir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const lockFile = join(root, 'package-lock.json')
const stampFile = join(root, 'node_modules/.package-lock.sha256')
const programs = join(root, 'node_modules/.bin')
const self = fileURLToPath(import.meta.url)
const LIBRARY = 'libatomic'

const { PATH = '', XDG_CACHE_HOME } = process.env
const cache = join(XDG_CACHE_HOME?.startsWith('/') ? XDG_CACHE_HOME : join(homedir(), '.cache'), 'smmu-cosim')
// Modules whose types are stripped and which are compiled already: a start, and a hot restart, in half the time.
const compiled = ownFolder(process.env.NODE_COMPILE_CACHE ?? join(cache, 'modules'))
const { NODE_COMPILE_CACHE: _, ...inherited } = process.env
const env = {
  ...inherited,
  ...(compiled && { NODE_COMPILE_CACHE: compiled }),
  PATH: `${programs}${delimiter}${PATH}`,
}

/**
 * What lies in a folder of compiled code is run: it has to be this user's, and nobody else may write to it.
 *
 * @param {string} path made if it is not there
 * @returns {string | undefined} undefined: it is not used
 */
function ownFolder(path) {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
    const { uid, mode } = lstatSync(path)
    const own = uid === process.getuid?.() && (mode & fs.S_IFMT) === fs.S_IFDIR
    if (own && (mode & 0o022) === 0) return path
    console.error(`smmu-cosim: ${path} is not used for compiled code: it is not a folder that only you can write to`)
  } catch {} // a read-only home: it goes without
  return undefined
}

/**
 * Runs a command on this process's own terminal and returns its exit code.
 * Ctrl-C reaches the command from the terminal by itself; passing it on as well would make it two.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {'inherit' | 2} stdout 2: what it says is progress, and standard output is that of the program started later
 * @returns {Promise<number>}
 */
function run(command, args, stdout = 'inherit', cwd = process.cwd()) {
  return new Promise(resolve => {
    const child = spawn(command, args, { cwd, env, stdio: ['inherit', stdout, 'inherit'] })
    for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
      process.on(signal, () => {
        if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal)
      })
    }
    child.on('error', error => {
      console.error(`smmu-cosim: cannot run ${command}: ${error.message}`)
      resolve(127)
    })
    child.on('close', (code, signal) => resolve(signal ? 128 + constants.signals[signal] : (code ?? 1)))
  })
}

function lockHash() {
  return createHash('sha256').update(readFileSync(lockFile)).digest('hex')
}

function upToDate() {
  try {
    return readFileSync(stampFile, 'utf8') === lockHash()
  } catch {
    return false
  }
}

/** Runs with package-lock.json locked: a second start waits here, then finds the work done. */
async function installPackages() {
  if (upToDate()) return 0
  console.error('smmu-cosim: installing npm packages')
  // Not "npm ci": that refuses a lock file without the optional packages of other platforms, which a registry mirror
  // may not have. With --no-save it is the lock file that decides all the same.
  const args = ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error']
  const code = await run('npm', args, 2, root)
  if (code === 0) writeFileSync(stampFile, lockHash())
  else console.error(`smmu-cosim: "npm ${args.join(' ')}" failed with exit code ${code}`)
  return code
}

/**
 * Node 26 among the programs, where the shebangs of the others find it too. npm links it there by itself, except
 * Debian's 9.2.
 *
 * @returns {string | undefined} undefined if there is none for this machine.
 */
function pinnedNode() {
  const link = join(programs, 'node')
  if (existsSync(link)) return link
  const name = `node-${process.platform}-${process.arch}`
  if (!existsSync(join(root, 'node_modules', name, 'bin/node'))) {
    console.error(`smmu-cosim: npm installed no package ${name}: Node 26 is there for linux-x64 and linux-arm64 only`)
    return undefined
  }
  mkdirSync(programs, { recursive: true })
  // In one step, whatever is there: another start may be doing the same.
  const made = `${link}.${process.pid}`
  symlinkSync(join('..', name, 'bin/node'), made)
  renameSync(made, link)
  return link
}

/**
 * Node 26 needs a library that comes with a compiler, and set-up, which installs one, is run by Node 26.
 *
 * @param {string} node
 * @returns {Promise<number>} 0: it starts
 */
async function startable(node) {
  const { status, stderr, error } = spawnSync(node, ['--version'], { encoding: 'utf8' })
  if (status === 0) return 0
  const said = error?.message ?? stderr.trim()
  if (!said.includes(`${LIBRARY}.so`)) {
    console.error(`smmu-cosim: Node 26 does not start: ${said}`)
    return 1
  }
  console.error(`smmu-cosim: installing ${LIBRARY}1, which Node 26 needs`)
  const apt = ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-o', 'DPkg::Lock::Timeout=300']
  const [command = '', ...args] = process.getuid?.() === 0 ? apt : ['sudo', ...apt]
  // A broken third-party source fails the update, and need not concern us.
  await run(command, [...args, 'update'], 2)
  const code = await run(command, [...args, 'install', '-y', '--no-install-recommends', `${LIBRARY}1`], 2)
  if (code !== 0) console.error(`smmu-cosim: as root, run: apt-get install ${LIBRARY}1`)
  return code
}

/** @param {string[]} args */
async function main(args) {
  if (args[0] === '--install') return installPackages()
  if (!upToDate()) {
    const code = await run('flock', ['--no-fork', lockFile, process.execPath, self, '--install'])
    if (code !== 0) return code
  }
  const node = pinnedNode()
  if (node === undefined) return 1
  const started = await startable(node)
  if (started !== 0) return started
  if (args[0] === '--setup') {
    args.shift()
    const code = await run(node, [join(root, 'scripts/setup/main.ts')])
    if (code !== 0) return code
  }
  if (args[0] !== '--exec') return run(node, [join(root, 'server/cli/main.ts'), ...args])
  const [, program, ...rest] = args
  if (program) return run(join(programs, program), rest)
  console.error('smmu-cosim: --exec needs a program')
  return 2
}

process.exitCode = await main(process.argv.slice(2))
